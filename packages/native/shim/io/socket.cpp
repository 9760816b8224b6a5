// Blocking calls on sockets that bun:ffi cannot make by itself.
//
// This library links no ggml, so the server's front process can use it without loading a backend.
// Every function returns a value >= 0 on success and a negative errno on failure; none throws.

#include "api.h"
#include "clock.h"
#include "populate.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

namespace {

// One syscall moves at most this much: keeps a call interruptible and below every kernel's 2 GiB cap.
constexpr size_t kMaxChunk = size_t(1) << 26;

// Memory is populated in pieces of this size, before data is received into them.
constexpr size_t kFreshChunk = size_t(256) << 10;

// getaddrinfo's own error numbers are returned below this base, so that they never look like an errno.
constexpr int kResolveErrorBase = -10000;

timeval timeval_of(double ms) {
    timeval value{};
    value.tv_sec  = long(ms / 1000);
    value.tv_usec = int((ms - double(value.tv_sec) * 1000) * 1000);
    return value;
}

int connect_one(const addrinfo * address, double deadline_ms) {
    int fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (fd < 0) {
        return -errno;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    const int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    int rc = connect(fd, address->ai_addr, address->ai_addrlen);
    if (rc < 0 && errno != EINPROGRESS) {
        const int error = errno;
        close(fd);
        return -error;
    }
    while (rc < 0) {
        pollfd waiting{fd, POLLOUT, 0};
        const double left = deadline_ms - now_ms();
        const int ready = left <= 0 ? 0 : poll(&waiting, 1, int(left) + 1);
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        int error = ready < 0 ? errno : ETIMEDOUT;
        if (ready > 0) {
            socklen_t length = sizeof(error);
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        }
        if (error != 0) {
            close(fd);
            return -error;
        }
        rc = 0;
    }
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    return fd;
}

} // namespace

// Makes an accepted or connected TCP socket blocking, without Nagle delay, and sure to notice a peer
// that vanished while the connection was idle: after twice keepalive_s.
API int io_tune_socket(int fd, int keepalive_s) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) {
        return -errno;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (keepalive_s > 0) {
        const int interval = keepalive_s > 3 ? keepalive_s / 3 : 1;
        const int count    = 3;
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
#ifdef TCP_KEEPIDLE
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &keepalive_s, sizeof(keepalive_s));
#endif
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
        // No TCP_USER_TIMEOUT: it also ends connections to a peer that is alive and has no time to read,
        // as a server that computes for minutes while the next inputs wait in its socket.
    }
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
#endif
    return 0;
}

// Connects to host:port (name, IPv4 or IPv6 literal without brackets), trying each address in turn.
API int io_connect(const char * host, int port, double timeout_ms) {
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    addrinfo hints{};
    hints.ai_family   = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo * found  = nullptr;
    const int resolved = getaddrinfo(host, service, &hints, &found);
    if (resolved != 0) {
        return kResolveErrorBase - (resolved < 0 ? -resolved : resolved);
    }
    const double deadline = now_ms() + timeout_ms;
    int left = 0;
    for (const addrinfo * address = found; address != nullptr; address = address->ai_next) {
        left++;
    }
    int result = -EHOSTUNREACH;
    for (const addrinfo * address = found; address != nullptr; address = address->ai_next) {
        // An address that swallows packets must leave time for the next one.
        const double now = now_ms();
        result = connect_one(address, now + (deadline - now) / left--);
        if (result >= 0) {
            break;
        }
    }
    freeaddrinfo(found);
    return result;
}

// Receives at most size bytes; blocks until there is at least one. 0 means the peer closed.
API double io_recv(int fd, void * target, double size) {
    for (;;) {
        const ssize_t got = recv(fd, target, size_t(size) < kMaxChunk ? size_t(size) : kMaxChunk, 0);
        if (got >= 0) {
            return double(got);
        }
        if (errno != EINTR) {
            return -double(errno);
        }
    }
}

// Receives exactly size bytes; returns fewer only when the peer closed in between. Large payloads are weights, whose
// memory is fresh: it is populated piece by piece, so that it is still in the processor's cache when the data comes.
API double io_recv_exact(int fd, void * target, double size) {
    const bool fresh = size_t(size) >= kFreshChunk;
    size_t done = 0;
    while (done < size_t(size)) {
        char * at = static_cast<char *>(target) + done;
        const size_t part = std::min(size_t(size) - done, fresh ? kFreshChunk : kMaxChunk);
        if (fresh) {
            populate(at, part);
        }
        // MSG_WAITALL saves one wake-up per segment on large payloads.
        const ssize_t got = recv(fd, at, part, MSG_WAITALL);
        if (got > 0) {
            done += size_t(got);
        } else if (got == 0) {
            return double(done);
        } else if (errno != EINTR) {
            return -double(errno);
        }
    }
    return double(done);
}

// Sends two blocks in one call where the kernel takes them; blocks until all is handed over.
API double io_send2(int fd, const void * first, double first_size, const void * second, double second_size) {
    iovec parts[2] = {
        {const_cast<void *>(first), size_t(first_size)},
        {const_cast<void *>(second), size_t(second_size)},
    };
    size_t left = parts[0].iov_len + parts[1].iov_len;
    const size_t total = left;
    int index = 0;
    while (left > 0) {
        while (index < 2 && parts[index].iov_len == 0) {
            index++;
        }
        iovec window[2] = {parts[0], parts[1]};
        if (window[1].iov_len > kMaxChunk) {
            window[1].iov_len = kMaxChunk;
        }
        if (window[0].iov_len > kMaxChunk) {
            window[0].iov_len = kMaxChunk;
        }
        msghdr message{};
        message.msg_iov    = window + index;
        // The second part may only follow a first part that goes out whole.
        message.msg_iovlen = index == 0 && window[0].iov_len == parts[0].iov_len ? 2 : 1;
        const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -double(errno);
        }
        left -= size_t(sent);
        size_t rest = size_t(sent);
        for (iovec & part : parts) {
            const size_t taken = rest < part.iov_len ? rest : part.iov_len;
            part.iov_base = static_cast<char *>(part.iov_base) + taken;
            part.iov_len -= taken;
            rest -= taken;
        }
    }
    return double(total);
}

API double io_send(int fd, const void * data, double size) {
    return io_send2(fd, data, size, nullptr, 0);
}

// Sends what the socket takes of two blocks at once, without waiting. Returns how many bytes; 0 when it takes none now.
API double io_send2_now(int fd, const void * first, double first_size, const void * second, double second_size) {
    iovec parts[2] = {
        {const_cast<void *>(first), std::min(size_t(first_size), kMaxChunk)},
        {const_cast<void *>(second), std::min(size_t(second_size), kMaxChunk)},
    };
    msghdr message{};
    message.msg_iov    = parts;
    message.msg_iovlen = first_size <= double(kMaxChunk) ? 2 : 1;
    for (;;) {
        const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            return double(sent);
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return 0;
        }
        if (errno != EINTR) {
            return -double(errno);
        }
    }
}

// Receives into two blocks what is there, at most all of both; with `wait` it blocks until there is something.
// Returns how many bytes; -EPIPE when the peer closed, -EAGAIN when there is nothing (or not within the silence limit).
API double io_recv2(int fd, void * first, double first_size, void * second, double second_size, int wait) {
    iovec parts[2] = {
        {first, std::min(size_t(first_size), kMaxChunk)},
        {second, std::min(size_t(second_size), kMaxChunk)},
    };
    msghdr message{};
    message.msg_iov    = parts;
    message.msg_iovlen = first_size <= double(kMaxChunk) ? 2 : 1;
    for (;;) {
        const ssize_t got = recvmsg(fd, &message, wait ? 0 : MSG_DONTWAIT);
        if (got > 0) {
            return double(got);
        }
        if (got == 0) {
            return -double(EPIPE);
        }
        if (errno != EINTR) {
            return errno == EWOULDBLOCK ? -double(EAGAIN) : -double(errno);
        }
    }
}

// poll(2) on an array of pollfd; timeout_ms < 0 waits for ever. Returns how many are ready.
API int io_poll(void * descriptors, int count, double timeout_ms) {
    const double deadline = now_ms() + timeout_ms;
    for (;;) {
        const double left = deadline - now_ms();
        const int ready = poll(static_cast<pollfd *>(descriptors), nfds_t(count), timeout_ms < 0 ? -1 : left <= 0 ? 0 : int(left) + 1);
        if (ready >= 0) {
            return ready;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

// 1 when a read would not block, 0 after timeout_ms, negative errno on failure. timeout_ms < 0 waits.
API int io_wait_readable(int fd, double timeout_ms) {
    const double deadline = now_ms() + timeout_ms;
    for (;;) {
        pollfd waiting{fd, POLLIN, 0};
        const double left = deadline - now_ms();
        const int ready = poll(&waiting, 1, timeout_ms < 0 ? -1 : left <= 0 ? 0 : int(left) + 1);
        if (ready >= 0) {
            return ready > 0 ? 1 : 0;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

// Copies between native memory and a typed array without making an ArrayBuffer over the former.
API void io_copy(void * target, double target_offset, const void * source, double size) {
    memcpy(static_cast<char *>(target) + size_t(target_offset), source, size_t(size));
}

// Copies rows of memory, `stride` from the start of one to that of the next, one behind the other.
API void io_copy_rows(void * target, const void * source, double row, double row_count, double stride) {
    for (size_t i = 0; i < size_t(row_count); i++) {
        memcpy(static_cast<char *>(target) + i * size_t(row), static_cast<const char *>(source) + i * size_t(stride), size_t(row));
    }
}

// Ends the sending side: the peer reads what was sent, then the end.
API int io_shutdown(int fd) {
    return shutdown(fd, SHUT_WR) == 0 ? 0 : -errno;
}

// Bytes that were sent and that the peer's system does not have yet, as far as it has said so; the end of sending counts as one.
API int io_unacknowledged(int fd) {
    int bytes = 0;
#ifdef SO_NWRITE
    socklen_t length = sizeof(bytes);
    return getsockopt(fd, SOL_SOCKET, SO_NWRITE, &bytes, &length) == 0 ? bytes : -errno;
#else
    // As SIOCOUTQ, which has a header of Linux's own.
    return ioctl(fd, TIOCOUTQ, &bytes) == 0 ? bytes : -errno;
#endif
}

// Lets receiving fail with -EAGAIN after so many milliseconds without a byte; 0 waits for ever.
API int io_set_receive_timeout(int fd, double timeout_ms) {
    const timeval limit = timeval_of(timeout_ms);
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 ? 0 : -errno;
}

// Lets sending and receiving fail with -EAGAIN after so many milliseconds in which no byte moved; 0 waits for ever.
API int io_set_silence_limit(int fd, double timeout_ms) {
    const timeval limit = timeval_of(timeout_ms);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0) {
        return -errno;
    }
    return 0;
}

API const char * io_error_text(int error) {
    if (error <= kResolveErrorBase) {
        // The sign of EAI_* differs between systems.
        const int code = kResolveErrorBase - error;
        return gai_strerror(EAI_NONAME < 0 ? -code : code);
    }
    return strerror(error < 0 ? -error : error);
}
