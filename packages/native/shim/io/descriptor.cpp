// Descriptors, and handing them to another process.

#include "api.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

API int io_close(int fd) {
    return close(fd) == 0 ? 0 : -errno;
}

API int io_duplicate(int fd) {
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : copy;
}

// A connected pair of local stream sockets; out[0] and out[1] are both closed on exec.
API int io_socketpair(int * out) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, out) < 0) {
        return -errno;
    }
    fcntl(out[0], F_SETFD, FD_CLOEXEC);
    fcntl(out[1], F_SETFD, FD_CLOEXEC);
    // Some systems give local sockets 8 KiB: a process that talks to itself would wait for itself.
    const int room = 512 * 1024;
    for (int end : {out[0], out[1]}) {
        setsockopt(end, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
        setsockopt(end, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    }
    return 0;
}

// Sends a byte and a descriptor over a local socket; the receiver gets its own copy of it.
API int io_send_descriptor(int channel, int fd, int tag) {
    char byte = char(tag);
    iovec part{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov        = &part;
    message.msg_iovlen     = 1;
    message.msg_control    = control;
    message.msg_controllen = sizeof(control);
    cmsghdr * header  = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type  = SCM_RIGHTS;
    header->cmsg_len   = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
    for (;;) {
        if (sendmsg(channel, &message, MSG_NOSIGNAL) == 1) {
            return 0;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

// Waits for a descriptor from io_send_descriptor, whose byte goes to *tag. -EPIPE when the other end is gone.
API int io_receive_descriptor(int channel, int * tag) {
    for (;;) {
        unsigned char byte = 0;
        iovec part{&byte, 1};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr message{};
        message.msg_iov        = &part;
        message.msg_iovlen     = 1;
        message.msg_control    = control;
        message.msg_controllen = sizeof(control);
        const ssize_t got = recvmsg(channel, &message, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 ? -EPIPE : -errno;
        }
        for (cmsghdr * header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
            if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
                int fd = -1;
                memcpy(&fd, CMSG_DATA(header), sizeof(int));
                fcntl(fd, F_SETFD, FD_CLOEXEC);
                *tag = byte;
                return fd;
            }
        }
    }
}
