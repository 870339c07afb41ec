/* Preloaded into minetest: frames on request, a clock of its own, and threads that take turns.
 *
 * A frame ends in glXSwapBuffers, which the main thread calls (frames.c). There the shim lets the other threads work,
 * in turns, until every one of them waits for something that only the next frame can bring (turns.c, network.c). Then
 * it hands over the picture and waits for the next request. The clock stands still between two requests and moves by
 * what the request says (clock.c): the world does not run on while nobody asks, and what happens does not depend on the
 * speed of the machine. Keys and mouse come with the request (inputs.c).
 *
 * Preloaded into Xvfb it only does what it also does in minetest: end the process with its parent (parent.c).
 *
 * In the environment: LSSVWM_PARENT, the process to end with; LSSVWM_SOCKET, a descriptor, where requests come from, in
 * minetest only; LSSVWM_FOLDER, what Xvfb removes when the parent is gone.
 */
#define _GNU_SOURCE
#include <X11/Xlib.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HOOK __attribute__((visibility("default")))
/* The function that a hook stands before. */
#define REAL(name) ((__typeof__(&name))shim_real(#name))
/* Other libraries, C++'s among them, wait in real time and do not take turns. */
#define CALLED_BY_GAME shim_in_game((uintptr_t)__builtin_return_address(0))

void *shim_real(const char *name);
int shim_in_game(uintptr_t address);

extern int shim_channel;                  /* to the controller; -1 in Xvfb */
extern volatile int64_t shim_elapsed_us;  /* of the clock of the game, all frames together */
int64_t shim_now_us(void);                /* what the game takes for now */

/* A turn is a set of roles. */
enum { NETWORK = 1, SERVER = 2, WORKER = 4 };
void shim_take_turn(int roles); /* returns when nobody in the turn has anything left to do */
void shim_hold(void);           /* from now on threads work in their turns only */

/* For network.c, with this lock. */
enum { ROOM = 64 };                         /* datagrams that surely fit into the buffer of a socket */
extern pthread_mutex_t shim_lock;           /* of all that is about turns */
extern int shim_in_flight;                  /* datagrams sent and not yet received */
int shim_takes_turns(void);                 /* whether this thread does */
void shim_wait_for_room(void);              /* until no datagram is in flight */
void shim_wait_for_data(int file);          /* until `file` can be read */
void shim_choose(void);                     /* something has changed: somebody may be able to go on */

typedef struct { int32_t kind, code, pressed; } Input; /* kind: 0 key with its keysym, 1 mouse button */
void shim_press(Display *display, Input input);
void shim_move(int right, int down); /* the mouse, in pixels */
void shim_focus(Display *display);
