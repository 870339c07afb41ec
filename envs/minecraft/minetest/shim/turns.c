/* Threads that take turns, one at a time, in an order that is the same in every run.
 *
 * Threads of the game give themselves a name when they begin; by that they are known here. The main thread does not,
 * and is none of them. Each is held where it waits anyway: at a semaphore, at a condition variable, for data. It goes
 * on when what it waits for is there, its role has the turn, and no other is running. Timeouts count in the clock of
 * the game.
 */
#include "shim.h"
#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

enum { RUNNING, ON_SEMAPHORE, ON_CONDITION, ON_SOCKET, ON_ROOM };

typedef struct Thread {
    int role, state, signalled;
    void *object; /* semaphore or condition it waits for */
    int socket;
    int64_t deadline; /* in the clock of the game; -1: none */
    pthread_cond_t wake;
    struct Thread *next;
} Thread;

pthread_mutex_t shim_lock = PTHREAD_MUTEX_INITIALIZER;
int shim_in_flight;

static pthread_cond_t rest = PTHREAD_COND_INITIALIZER; /* nobody is running or could */
static Thread *threads, *granted;                      /* in the order of their birth; the one that runs next */
static int running, turn, held, server_steps;
static __thread Thread *self;
static pthread_key_t ending;
static pthread_once_t ending_once = PTHREAD_ONCE_INIT;

static int able(Thread *thread) {
    if (thread->state == RUNNING || (held && !(thread->role & turn))) return 0;
    if (thread->state == ON_CONDITION) return thread->signalled;
    if (thread->state == ON_ROOM) return shim_in_flight == 0;
    if (thread->state == ON_SOCKET) {
        struct pollfd data = {.fd = thread->socket, .events = POLLIN};
        return poll(&data, 1, 0) > 0;
    }
    if (thread->role == SERVER) return server_steps > 0; /* one step in a turn, with packets or without */
    int posted = 0;
    sem_getvalue(thread->object, &posted);
    return posted > 0 || (thread->deadline >= 0 && thread->deadline <= shim_now_us());
}

/* Only ever one at a time, and the eldest first: the order in which threads meet is the same in every run. */
void shim_choose(void) {
    if (running || granted) return;
    for (granted = threads; granted && !able(granted);) granted = granted->next;
    pthread_cond_signal(granted ? &granted->wake : &rest);
}

static void pause_here(int state, void *object) {
    self->object = object;
    self->state = state;
    self->signalled = 0;
    running--;
    shim_choose();
    while (granted != self) pthread_cond_wait(&self->wake, &shim_lock);
    granted = NULL;
    running++;
    self->state = RUNNING;
}

int shim_takes_turns(void) { return self != NULL; }

void shim_wait_for_room(void) { pause_here(ON_ROOM, NULL); }

void shim_wait_for_data(int file) {
    self->socket = file;
    pause_here(ON_SOCKET, NULL);
}

void shim_hold(void) { held = 1; }

void shim_take_turn(int roles) {
    pthread_mutex_lock(&shim_lock);
    turn = roles;
    server_steps = roles & SERVER ? 1 : 0;
    int patience = 20; /* ms: the kernel may be late with a datagram, or lose it */
    for (shim_choose(); running || granted || (shim_in_flight > 0 && roles & NETWORK);) {
        struct timespec soon;
        REAL(clock_gettime)(CLOCK_REALTIME, &soon);
        soon.tv_nsec += 1000000;
        if (soon.tv_nsec >= 1000000000) soon.tv_sec++, soon.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&rest, &shim_lock, &soon);
        if (!running && !granted && shim_in_flight > 0 && !patience--) shim_in_flight = 0;
        shim_choose();
    }
    turn = 0;
    pthread_mutex_unlock(&shim_lock);
}

static void forget(void *ended) {
    pthread_mutex_lock(&shim_lock);
    for (Thread **link = &threads; *link; link = &(*link)->next)
        if (*link == ended) {
            *link = (*link)->next;
            break;
        }
    running--;
    shim_choose();
    pthread_mutex_unlock(&shim_lock);
}

static void make_ending(void) { pthread_key_create(&ending, forget); }

HOOK int prctl(int option, ...) {
    static int (*original)(int, ...);
    if (!original) original = (int (*)(int, ...))shim_real("prctl");
    va_list list;
    va_start(list, option);
    unsigned long a = va_arg(list, unsigned long), b = va_arg(list, unsigned long);
    unsigned long c = va_arg(list, unsigned long), d = va_arg(list, unsigned long);
    va_end(list);
    if (option == PR_SET_NAME && !self && CALLED_BY_GAME && (pid_t)syscall(SYS_gettid) != getpid()) {
        const char *name = (const char *)a;
        pthread_once(&ending_once, make_ending);
        self = calloc(1, sizeof *self);
        self->role = !strcmp(name, "Server") ? SERVER : !strncmp(name, "Connection", 10) ? NETWORK : WORKER;
        self->deadline = -1;
        pthread_cond_init(&self->wake, NULL);
        pthread_setspecific(ending, self);
        pthread_mutex_lock(&shim_lock);
        Thread **last = &threads;
        while (*last) last = &(*last)->next;
        *last = self;
        running++;
        pthread_mutex_unlock(&shim_lock);
    }
    return original(option, a, b, c, d);
}

HOOK int sem_post(sem_t *semaphore) {
    static __typeof__(&sem_post) original;
    if (!original) original = REAL(sem_post);
    pthread_mutex_lock(&shim_lock);
    int result = original(semaphore);
    shim_choose();
    pthread_mutex_unlock(&shim_lock);
    return result;
}

static int wait_in_turn(sem_t *semaphore, int64_t deadline) {
    pthread_mutex_lock(&shim_lock);
    self->deadline = deadline;
    pause_here(ON_SEMAPHORE, semaphore);
    int taken = !sem_trywait(semaphore);
    if (self->role == SERVER) server_steps = 0;
    pthread_mutex_unlock(&shim_lock);
    if (taken) return 0;
    errno = ETIMEDOUT;
    return -1;
}

HOOK int sem_wait(sem_t *semaphore) {
    static __typeof__(&sem_wait) original;
    if (!original) original = REAL(sem_wait);
    if (!self) return original(semaphore);
    while (wait_in_turn(semaphore, -1)) continue;
    return 0;
}

HOOK int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static __typeof__(&sem_timedwait) original;
    if (!original) original = REAL(sem_timedwait);
    int64_t deadline = until->tv_sec * 1000000LL + until->tv_nsec / 1000;
    if (self) return wait_in_turn(semaphore, deadline);
    if (!CALLED_BY_GAME) return original(semaphore, until);
    struct timespec later;
    REAL(clock_gettime)(CLOCK_REALTIME, &later);
    int64_t end = later.tv_sec * 1000000LL + later.tv_nsec / 1000 + (deadline - shim_now_us());
    later = (struct timespec){end / 1000000, end % 1000000 * 1000};
    return original(semaphore, &later);
}

/* std::condition_variable::wait(std::unique_lock<std::mutex> &), whose first member is the mutex */
HOOK void _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(void *condition, pthread_mutex_t **mutex) {
    static void (*original)(void *, pthread_mutex_t **);
    if (!original) original = shim_real("_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE");
    if (!self) {
        original(condition, mutex);
        return;
    }
    pthread_mutex_lock(&shim_lock); /* before the mutex goes, or a notification could be missed */
    pthread_mutex_unlock(*mutex);
    pause_here(ON_CONDITION, condition);
    pthread_mutex_unlock(&shim_lock);
    pthread_mutex_lock(*mutex);
}

/* std::condition_variable::notify_one() */
HOOK void _ZNSt18condition_variable10notify_oneEv(void *condition) {
    static void (*original)(void *);
    if (!original) original = shim_real("_ZNSt18condition_variable10notify_oneEv");
    pthread_mutex_lock(&shim_lock);
    for (Thread *thread = threads; thread; thread = thread->next)
        if (thread->state == ON_CONDITION && thread->object == condition) thread->signalled = 1;
    shim_choose();
    pthread_mutex_unlock(&shim_lock);
    original(condition);
}

/* std::thread::join(). The game joins its threads when it ends, and here they no longer move; why is in its log. */
HOOK void _ZNSt6thread4joinEv(void *thread) {
    if (held && !self && CALLED_BY_GAME) _exit(4);
    ((void (*)(void *))shim_real("_ZNSt6thread4joinEv"))(thread);
}
