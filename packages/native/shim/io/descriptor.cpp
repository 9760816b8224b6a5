// Descriptors, and handing them to another process.

#include "api.h"
#include "clock.h"
#include "hangup.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

API int io_close(int fd) {
    return close(fd) == 0 ? 0 : -errno;
}

// Keeps other processes out of a file that this one shares with them, until io_unlock or its end; waits for the one that is in,
// but no longer than timeout_ms: -EAGAIN then. Threads of one process are not kept apart.
API int io_lock(int fd, double timeout_ms) {
    struct flock whole{};
    whole.l_type   = F_WRLCK;
    whole.l_whence = SEEK_SET;
    const double deadline = now_ms() + timeout_ms;
    while (fcntl(fd, F_SETLK, &whole) < 0) {
        if (errno != EINTR && errno != EAGAIN && errno != EACCES) {
            return -errno;
        }
        if (now_ms() >= deadline) {
            return -EAGAIN;
        }
        usleep(200);
    }
    return 0;
}

API int io_unlock(int fd) {
    struct flock whole{};
    whole.l_type   = F_UNLCK;
    whole.l_whence = SEEK_SET;
    return fcntl(fd, F_SETLK, &whole) < 0 ? -errno : 0;
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

// A file in memory that holds these bytes, to be handed to another process; it is gone with its last descriptor.
API int io_memory_file(const void * data, double size) {
#ifdef __linux__
    const int fd = memfd_create("ggml-rpc", MFD_CLOEXEC);
#else
    char path[] = "/tmp/ggml-rpc-XXXXXX";
    const int fd = mkstemp(path);
    if (fd >= 0) {
        unlink(path);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
#endif
    if (fd < 0) {
        return -errno;
    }
    for (size_t done = 0; done < size_t(size);) {
        const ssize_t wrote = pwrite(fd, static_cast<const char *>(data) + done, size_t(size) - done, off_t(done));
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            const int error = wrote < 0 ? errno : ENOSPC;
            close(fd);
            return -error;
        }
        done += size_t(wrote);
    }
    return fd;
}

namespace {

// What a connection is handed over with: two descriptors at most, and after this the bytes that were read of it.
struct handed_connection {
    int32_t tag;
    int32_t size;
};

constexpr int kHandedDescriptors = 2;

} // namespace

// Hands a connection over a local socket: its descriptor (the receiver gets its own copy), a tag, and bytes that were read of
// it; more_fd, unless negative, is a file with these instead. Never waits: -EAGAIN when the channel does not take it all, and
// then the channel is of no use any more. With a negative fd it is a message without a connection, for io_receive_note.
API int io_send_connection(int channel, int fd, int tag, const void * data, double size, int more_fd) {
    handed_connection head{tag, int32_t(size)};
    iovec parts[2] = {{&head, sizeof(head)}, {const_cast<void *>(data), size_t(size)}};
    const int fds[kHandedDescriptors] = {fd, more_fd};
    const size_t fd_bytes = (more_fd < 0 ? 1 : kHandedDescriptors) * sizeof(int);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
    msghdr message{};
    message.msg_iov        = parts;
    message.msg_iovlen     = size > 0 ? 2 : 1;
    if (fd >= 0) {
        message.msg_control    = control;
        message.msg_controllen = CMSG_SPACE(fd_bytes);
        cmsghdr * header   = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type  = SCM_RIGHTS;
        header->cmsg_len   = CMSG_LEN(fd_bytes);
        memcpy(CMSG_DATA(header), fds, fd_bytes);
    }
    for (;;) {
        const ssize_t sent = sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent == ssize_t(sizeof(head)) + ssize_t(size)) {
            return 0;
        }
        if (sent >= 0) {
            return -EAGAIN;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

namespace {

// Closes descriptors that came with what is of no use.
int give_up(int * fds, int error) {
    for (int i = 0; i < kHandedDescriptors; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
        fds[i] = -1;
    }
    return error;
}

// Receives what io_send_connection sent; 0 with out[0] the tag, out[1] how many bytes are in data, and the descriptors or -1,
// which the caller has to close. None of them is open after an error.
int receive_handed(int channel, void * data, double room, int * out, int * fds) {
    handed_connection head{};
    alignas(cmsghdr) char control[CMSG_SPACE(kHandedDescriptors * sizeof(int))] = {};
    fds[0] = fds[1] = -1;
    for (;;) {
        iovec part{&head, sizeof(head)};
        msghdr message{};
        message.msg_iov        = &part;
        message.msg_iovlen     = 1;
        message.msg_control    = control;
        message.msg_controllen = sizeof(control);
        const ssize_t got = recvmsg(channel, &message, MSG_WAITALL);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 ? -EPIPE : -errno;
        }
        cmsghdr * header = CMSG_FIRSTHDR(&message);
        if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
            memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
        }
        if (got != ssize_t(sizeof(head)) || head.size < 0 || head.size > room) {
            return give_up(fds, -EPROTO);
        }
        break;
    }
    for (int i = 0; i < kHandedDescriptors; i++) {
        if (fds[i] >= 0) {
            fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        }
    }
    for (int32_t done = 0; done < head.size;) {
        const ssize_t more = recv(channel, static_cast<char *>(data) + done, size_t(head.size - done), MSG_WAITALL);
        if (more < 0 && errno == EINTR) {
            continue;
        }
        if (more <= 0) {
            return give_up(fds, more == 0 ? -EPIPE : -errno);
        }
        done += int32_t(more);
    }
    out[0] = head.tag;
    out[1] = head.size;
    return 0;
}

} // namespace

// Waits for a connection from io_send_connection. Returns its descriptor, with out[0] the tag, out[1] how many bytes are in
// data, out[2] the descriptor of the file or -1. -EPIPE when the other end is gone.
API int io_receive_connection(int channel, void * data, double room, int * out) {
    int fds[kHandedDescriptors];
    const int result = receive_handed(channel, data, room, out, fds);
    if (result < 0 || fds[0] < 0) {
        return result < 0 ? result : give_up(fds, -EPROTO);
    }
    out[2] = fds[1];
    return fds[0];
}

// Waits for a message of io_send_connection, with or without a connection, as long as the client is there: 0 with out[0] the
// tag, out[1] how many bytes are in data, out[2] the descriptor or -1. -ETIMEDOUT when none came in time, -ECANCELED when the client is
// gone, -EPIPE when the other end of the channel is.
API int io_receive_note(int channel, int client_fd, double timeout_ms, void * data, double room, int * out) {
    const double deadline = now_ms() + timeout_ms;
    for (;;) {
        pollfd fds[2] = {{channel, POLLIN, 0}, {client_fd, short(POLLRDHUP), 0}};
        const double left = deadline - now_ms();
        const int ready = poll(fds, 2, left <= 0 ? 0 : int(left) + 1);
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        if (ready < 0) {
            return -errno;
        }
        if (fds[0].revents != 0) {
            int handed[kHandedDescriptors];
            const int result = receive_handed(channel, data, room, out, handed);
            out[2] = handed[0];
            if (result == 0 && handed[1] >= 0) {
                out[2] = -1;
                return give_up(handed, -EPROTO);
            }
            return result;
        }
        if (fds[1].revents != 0) {
            return -ECANCELED;
        }
        if (ready == 0) {
            return -ETIMEDOUT;
        }
    }
}

// 1 when the peer has ended its sending side, or the connection is broken; never waits.
API int io_peer_gone(int fd) {
    return has_hung_up(fd) ? 1 : 0;
}
