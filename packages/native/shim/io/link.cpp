// The socket between two servers: one listens beside its client's connection, the other dials it (io_connect).

#include "api.h"
#include "clock.h"

#include <cerrno>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

// Listens for one connection on a port of the very address that fd, a connected TCP socket, has on this machine: who
// reaches one reaches the other, and other networks of this machine do not. Returns the listening descriptor.
API int io_listen_beside(int fd, int port) {
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    if (getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length) < 0) {
        return -errno;
    }
    if (address.ss_family == AF_INET) {
        reinterpret_cast<sockaddr_in *>(&address)->sin_port = htons(uint16_t(port));
    } else if (address.ss_family == AF_INET6) {
        reinterpret_cast<sockaddr_in6 *>(&address)->sin6_port = htons(uint16_t(port));
    } else {
        return -EAFNOSUPPORT;
    }
    const int listener = socket(address.ss_family, SOCK_STREAM, 0);
    if (listener < 0) {
        return -errno;
    }
    fcntl(listener, F_SETFD, FD_CLOEXEC);
    // A connection that is gone again when it is accepted must not block.
    fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
    const int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, reinterpret_cast<sockaddr *>(&address), length) < 0 || listen(listener, 1) < 0) {
        const int error = errno;
        close(listener);
        return -error;
    }
    return listener;
}

// Accepts one connection; -ETIMEDOUT when none came in time.
API int io_accept(int listener, double timeout_ms) {
    const double deadline = now_ms() + timeout_ms;
    for (;;) {
        pollfd waiting{listener, POLLIN, 0};
        const double left = deadline - now_ms();
        const int ready = left <= 0 ? 0 : poll(&waiting, 1, int(left) + 1);
        if (ready == 0) {
            return -ETIMEDOUT;
        }
        const int fd = ready < 0 ? -1 : accept(listener, nullptr, nullptr);
        if (fd >= 0) {
            fcntl(fd, F_SETFD, FD_CLOEXEC);
            return fd;
        }
        if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED) {
            return -errno;
        }
    }
}

// Writes the address of the other end as text with its NUL, such as 10.0.0.2; "" when it has none.
API void io_peer_address(int fd, char * text, int size) {
    text[0] = 0;
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    if (getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length) == 0) {
        getnameinfo(reinterpret_cast<sockaddr *>(&address), length, text, socklen_t(size), nullptr, 0, NI_NUMERICHOST);
    }
}

// Lets sending fail with -EAGAIN when the other end took nothing for so many milliseconds; 0 waits for ever.
API int io_set_send_timeout(int fd, double timeout_ms) {
    timeval limit{};
    limit.tv_sec  = long(timeout_ms / 1000);
    limit.tv_usec = int((timeout_ms - double(limit.tv_sec) * 1000) * 1000);
    return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0 ? 0 : -errno;
}
