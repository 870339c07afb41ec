/* Keys and mouse: X events that never were at the X server, so neither the keyboard focus nor the window matters. */
#include "shim.h"

enum { LONGEST = 64 };

static Window window;
static XEvent queue[LONGEST];
static int queued, taken, mouse_x, mouse_y;

static void push(Display *display, int type, int code) {
    if (queued == LONGEST) {
        fprintf(stderr, "shim: too many inputs\n");
        _exit(3);
    }
    XEvent event = {.xany = {.type = type, .display = display, .window = window}};
    if (type == KeyPress || type == KeyRelease) {
        event.xkey.root = DefaultRootWindow(display);
        event.xkey.time = shim_elapsed_us / 1000;
        event.xkey.same_screen = True;
        event.xkey.keycode = XKeysymToKeycode(display, code);
    } else if (type != FocusIn) {
        event.xbutton.time = shim_elapsed_us / 1000;
        event.xbutton.same_screen = True;
        event.xbutton.button = code;
        event.xbutton.x = mouse_x;
        event.xbutton.y = mouse_y;
    }
    queue[queued++] = event;
}

void shim_press(Display *display, Input input) {
    if (input.kind) push(display, input.pressed ? ButtonPress : ButtonRelease, input.code);
    else push(display, input.pressed ? KeyPress : KeyRelease, input.code);
}

void shim_focus(Display *display) { push(display, FocusIn, 0); }

void shim_move(int right, int down) {
    mouse_x += right;
    mouse_y += down;
}

HOOK int XMapRaised(Display *display, Window mapped) {
    window = mapped;
    return REAL(XMapRaised)(display, mapped);
}

HOOK int XPending(Display *display) {
    static __typeof__(&XPending) original;
    if (!original) original = REAL(XPending);
    return queued - taken + original(display);
}

HOOK int XPeekEvent(Display *display, XEvent *event) {
    if (taken == queued) return REAL(XPeekEvent)(display, event);
    *event = queue[taken];
    return 0;
}

HOOK int XNextEvent(Display *display, XEvent *event) {
    static __typeof__(&XNextEvent) original;
    if (!original) original = REAL(XNextEvent);
    if (taken < queued) {
        *event = queue[taken++];
        if (taken == queued) taken = queued = 0;
        return 0;
    }
    int result = original(display, event);
    if (event->type == FocusOut) event->type = 0; /* whoever has the keyboard, the game is listening */
    return result;
}

HOOK Bool XQueryPointer(Display *display, Window asked, Window *root, Window *child, int *root_x, int *root_y, int *x,
                        int *y, unsigned *mask) {
    (void)display, (void)asked, (void)child;
    if (root) *root = 0;
    *root_x = *x = mouse_x;
    *root_y = *y = mouse_y;
    *mask = 0;
    return True;
}

HOOK int XWarpPointer(Display *display, Window from, Window to, int from_x, int from_y, unsigned width, unsigned height,
                      int x, int y) {
    (void)display, (void)from, (void)to, (void)from_x, (void)from_y, (void)width, (void)height;
    mouse_x = x;
    mouse_y = y;
    return 1;
}

/* of XInput 2, whose headers are not needed for one function */
HOOK Status XIWarpPointer(Display *display, int device, Window from, Window to, double from_x, double from_y,
                          unsigned width, unsigned height, double x, double y) {
    (void)display, (void)device, (void)from, (void)to, (void)from_x, (void)from_y, (void)width, (void)height;
    mouse_x = (int)x;
    mouse_y = (int)y;
    return 0;
}
