/* The start of the shim, and the end of the process with its parent, however that ends. */
#include "shim.h"
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

int shim_channel = -1;
static uintptr_t game_low, game_high;
static pid_t parent;

void *shim_real(const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) {
        fprintf(stderr, "shim: %s is missing\n", name);
        _exit(3);
    }
    return symbol;
}

int shim_in_game(uintptr_t address) { return shim_channel >= 0 && address >= game_low && address < game_high; }

static void leave(void) {
    if (shim_channel >= 0) _exit(0);
    /* Xvfb outlives minetest by a moment and clears up: nobody else is left to do it. */
    const char *folder = getenv("LSSVWM_FOLDER");
    for (int tries = 0; folder && tries < 10; tries++) {
        pid_t child;
        usleep(500000);
        if (tries && access(folder, F_OK)) break;
        char *arguments[] = {"rm", "-rf", "--", (char *)folder, NULL};
        char *nothing[] = {NULL};
        if (!posix_spawn(&child, "/bin/rm", NULL, NULL, arguments, nothing)) waitpid(child, NULL, 0);
    }
    kill(getpid(), SIGTERM); /* in order, so that Xvfb removes its socket and lock */
    usleep(2000000);
    _exit(0);
}

static void *watch(void *unused) {
    /* The socket tells of the end of the controller at once, unless a fork of it holds the other end. */
    struct pollfd hangup = {.fd = shim_channel, .events = POLLRDHUP};
    for (;;) {
        if (shim_channel < 0) usleep(300000);
        else if (poll(&hangup, 1, 300) > 0) leave();
        if (getppid() != parent) leave();
    }
    return unused;
}

static int find_game(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
        uintptr_t low = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, high = low + info->dlpi_phdr[i].p_memsz;
        if (!game_low || low < game_low) game_low = low;
        if (high > game_high) game_high = high;
    }
    return 1; /* the first object is the program itself */
}

__attribute__((constructor)) static void begin(void) {
    const char *owner = getenv("LSSVWM_PARENT"), *descriptor = getenv("LSSVWM_SOCKET");
    if (!owner) return;
    parent = atoi(owner);
    unsetenv("LSSVWM_PARENT");
    unsetenv("LD_PRELOAD"); /* programs that this one starts are none of ours */
    if (descriptor) {
        dl_iterate_phdr(find_game, NULL);
        shim_channel = atoi(descriptor);
        fcntl(shim_channel, F_SETFD, FD_CLOEXEC);
    }
    pthread_t watcher;
    sigset_t every, before;
    sigfillset(&every); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &every, &before);
    if (pthread_create(&watcher, NULL, watch, NULL)) {
        perror("shim: watch");
        _exit(3);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
