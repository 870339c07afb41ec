/* The clock of the game, which stands still between two requests, and chance that is the same in every run. */
#include "shim.h"
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

enum { START = 1600000000 }; /* seconds: what the game takes for now before the first frame */

volatile int64_t shim_elapsed_us;

int64_t shim_now_us(void) { return START * 1000000LL + shim_elapsed_us; }

HOOK int clock_gettime(clockid_t id, struct timespec *result) {
    static __typeof__(&clock_gettime) original;
    if (!original) original = REAL(clock_gettime);
    if ((id != CLOCK_REALTIME && id != CLOCK_MONOTONIC && id != CLOCK_MONOTONIC_RAW) || !CALLED_BY_GAME)
        return original(id, result);
    *result = (struct timespec){shim_now_us() / 1000000, shim_now_us() % 1000000 * 1000};
    return 0;
}

HOOK int gettimeofday(struct timeval *restrict result, void *restrict zone) {
    static __typeof__(&gettimeofday) original;
    if (!original) original = REAL(gettimeofday);
    if (!CALLED_BY_GAME) return original(result, zone);
    *result = (struct timeval){shim_now_us() / 1000000, shim_now_us() % 1000000};
    return 0;
}

HOOK time_t time(time_t *result) { /* seeds generators, in the game and in Lua */
    struct timespec now = {shim_now_us() / 1000000, 0};
    if (shim_channel < 0) syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

/* LuaJIT draws the seed of its string hashes, and so the order of `pairs`, from the kernel. */
HOOK long syscall(long number, ...) {
    static long (*original)(long, ...);
    if (!original) original = (long (*)(long, ...))shim_real("syscall");
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
    long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (number == SYS_getrandom && shim_channel >= 0) {
        memset((void *)a, 0x5a, (size_t)b);
        return b;
    }
    return original(number, a, b, c, d, e, f);
}
