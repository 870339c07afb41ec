/* The packets between client and server, which travel over the loopback interface within this process.
 *
 * The server picks its port from a generator that is now the same in every run, so it gets one that is free and is not
 * told. The client would take packets from anywhere, and gets an address that only this machine reaches.
 */
#include "shim.h"
#include <arpa/inet.h>
#include <string.h>
#include <sys/select.h>

HOOK int select(int count, fd_set *restrict in, fd_set *restrict out, fd_set *restrict bad,
                struct timeval *restrict limit) {
    static __typeof__(&select) original;
    if (!original) original = REAL(select);
    if (shim_takes_turns() && in && count > 0 && FD_ISSET(count - 1, in)) {
        pthread_mutex_lock(&shim_lock);
        shim_wait_for_data(count - 1);
        pthread_mutex_unlock(&shim_lock);
    }
    return original(count, in, out, bad, limit);
}

static in_port_t picked_port, real_port; /* in network order */

HOOK int bind(int file, const struct sockaddr *address, socklen_t length) {
    static __typeof__(&bind) original;
    if (!original) original = REAL(bind);
    struct sockaddr_in local;
    if (!CALLED_BY_GAME || address->sa_family != AF_INET || length != sizeof local)
        return original(file, address, length);
    memcpy(&local, address, sizeof local);
    in_port_t picked = local.sin_port;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    local.sin_port = 0;
    int result = original(file, (struct sockaddr *)&local, sizeof local);
    if (!result && picked) {
        getsockname(file, (struct sockaddr *)&local, &length);
        picked_port = picked;
        real_port = local.sin_port;
    }
    return result;
}

HOOK ssize_t sendto(int file, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    static __typeof__(&sendto) original;
    if (!original) original = REAL(sendto);
    struct sockaddr_in peer;
    if (!CALLED_BY_GAME || !to || to->sa_family != AF_INET || length != sizeof peer)
        return original(file, data, size, flags, to, length);
    memcpy(&peer, to, sizeof peer);
    if (peer.sin_port == picked_port) peer.sin_port = real_port;
    pthread_mutex_lock(&shim_lock);
    if (shim_in_flight >= ROOM && shim_takes_turns()) shim_wait_for_room();
    ssize_t sent = original(file, data, size, flags, (struct sockaddr *)&peer, sizeof peer);
    if (sent >= 0) shim_in_flight++;
    shim_choose();
    pthread_mutex_unlock(&shim_lock);
    return sent;
}

HOOK ssize_t recvfrom(int file, void *restrict data, size_t size, int flags, struct sockaddr *restrict from,
                      socklen_t *restrict length) {
    static __typeof__(&recvfrom) original;
    if (!original) original = REAL(recvfrom);
    ssize_t received = original(file, data, size, flags, from, length);
    if (received < 0 || !CALLED_BY_GAME) return received;
    struct sockaddr_in *peer = (struct sockaddr_in *)from;
    if (peer && peer->sin_family == AF_INET && peer->sin_port == real_port) peer->sin_port = picked_port;
    pthread_mutex_lock(&shim_lock);
    if (shim_in_flight > 0) shim_in_flight--;
    pthread_mutex_unlock(&shim_lock);
    return received;
}
