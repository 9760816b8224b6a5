// Blocking socket and descriptor calls that bun:ffi cannot make by itself.
//
// This library links no ggml, so the server's front process can use it without loading a backend.
// Every function returns a value >= 0 on success and a negative errno on failure; none throws.

#include "../populate.h"

#include <algorithm>
#include <arpa/inet.h>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <ctime>
#include <unistd.h>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

namespace {

// One syscall moves at most this much: keeps a call interruptible and below every kernel's 2 GiB cap.
constexpr size_t kMaxChunk = size_t(1) << 26;

// Memory is populated in pieces of this size, before data is received into them.
constexpr size_t kFreshChunk = size_t(256) << 10;

// getaddrinfo's own error numbers are returned below this base, so that they never look like an errno.
constexpr int kResolveErrorBase = -10000;

double now_ms() {
    timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return double(ts.tv_sec) * 1e3 + double(ts.tv_nsec) / 1e6;
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

// Receives one response: the u64 payload size, which must equal size, and the payload into target.
// Returns 0; -EPIPE when the peer closed, -EPROTO when the announced size is another one.
API int io_recv_response(int fd, void * target, double size) {
    uint64_t announced = 0;
    const size_t wanted = size_t(size);
    const size_t total = sizeof(announced) + wanted;
    size_t done = 0;
    while (done < total) {
        iovec parts[2];
        int count = 0;
        if (done < sizeof(announced)) {
            parts[count++] = {reinterpret_cast<char *>(&announced) + done, sizeof(announced) - done};
        }
        const size_t payload_done = done < sizeof(announced) ? 0 : done - sizeof(announced);
        if (payload_done < wanted) {
            const size_t left = wanted - payload_done;
            parts[count++] = {static_cast<char *>(target) + payload_done, left < kMaxChunk ? left : kMaxChunk};
        }
        const ssize_t got = readv(fd, parts, count);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (got == 0) {
            return -EPIPE;
        }
        const bool had_size = done >= sizeof(announced);
        done += size_t(got);
        if (!had_size && done >= sizeof(announced) && announced != wanted) {
            return -EPROTO;
        }
    }
    return 0;
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

// Ends the sending side: the peer reads what was sent, then the end.
API int io_shutdown(int fd) {
    return shutdown(fd, SHUT_WR) == 0 ? 0 : -errno;
}

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

// Sends one byte and a descriptor over a local socket; the receiver gets its own copy of it.
API int io_send_descriptor(int channel, int fd) {
    char tag = 'f';
    iovec part{&tag, 1};
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

// Waits for a descriptor from io_send_descriptor. -EPIPE when the other end is gone.
API int io_receive_descriptor(int channel) {
    for (;;) {
        char tag = 0;
        iovec part{&tag, 1};
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
                return fd;
            }
        }
    }
}

// ---- watching other descriptors while JavaScript is inside a blocking call --------------------

namespace {

// How long a process may go on computing for a client that is gone. Not every backend can be stopped
// by a flag, and the client's memory must not wait for a long operation.
constexpr double kGoneGraceMs = 1000;

// How often a connection is asked whether its peer still answers, and how long a peer that owes
// acknowledgements may give none. Keepalive does not cover that: it needs an idle connection.
constexpr int      kSilenceCheckMs = 5000;
constexpr unsigned kSilenceMs      = 20000;

// Exit code of a process that was ended for that reason.
constexpr int kClientGoneExit = 3;

std::atomic<int> g_abort_flag{0};
int g_wake[2] = {-1, -1};
int g_parent_fd = -1;

std::mutex g_client_mutex;
int        g_client_fd = -1;
// Tells one client from the next, which may get the same descriptor.
unsigned   g_client_number = 0;

struct watched_server {
    int  fd;
    bool is_silent;
};
// Under g_client_mutex.
std::vector<watched_server> g_servers;

// Whether the host at the other end seems gone: several sends or probes in a row, and no answer at all.
bool is_silent(int fd) {
#ifdef TCP_INFO
    tcp_info info{};
    socklen_t length = sizeof(info);
    if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0) {
        return false;
    }
    const bool owes = (info.tcpi_unacked > 0 && info.tcpi_retransmits >= 3) || info.tcpi_probes >= 3;
    return owes && info.tcpi_last_ack_recv >= kSilenceMs;
#else
    (void) fd;
    return false;
#endif
}

// Ends the connections to servers that went silent: a blocking send or receive returns.
void end_silent_servers() {
    for (watched_server & server : g_servers) {
        if (!server.is_silent && is_silent(server.fd)) {
            server.is_silent = true;
            shutdown(server.fd, SHUT_RDWR);
        }
    }
}

// One thread watches the parent's end (gone: this process ends), the client's connection (gone: the
// abort flag is raised, so that a running graph stops), and servers (silent: their connections end).
// Blocking JavaScript can do none of it.
void * watch(void *) {
    bool     has_gone    = false;
    unsigned gone_number = 0;
    double   deadline_ms = 0;
    for (;;) {
        int      client;
        unsigned number;
        bool     has_servers;
        {
            std::lock_guard<std::mutex> lock(g_client_mutex);
            client      = g_client_fd;
            number      = g_client_number;
            has_servers = !g_servers.empty();
        }
        has_gone = has_gone && gone_number == number;
        pollfd fds[3] = {
            {g_wake[0], POLLIN, 0},
            {g_parent_fd, 0, 0},
            {client, short(POLLRDHUP), 0},
        };
        const double left = deadline_ms - now_ms();
        const int timeout = has_gone ? (left <= 0 ? 0 : int(left) + 1) : client < 0 && !has_servers ? -1 : kSilenceCheckMs;
        const int ready = poll(fds, client < 0 || has_gone ? 2 : 3, timeout);
        if (ready < 0) {
            continue;
        }
        if (fds[0].revents & POLLIN) {
            char drain[16];
            if (read(g_wake[0], drain, sizeof(drain)) < 0) {
                return nullptr;
            }
            continue;
        }
        if (g_parent_fd >= 0 && (fds[1].revents & (POLLHUP | POLLERR | POLLNVAL))) {
            _exit(0);
        }
        std::lock_guard<std::mutex> lock(g_client_mutex);
        if (ready == 0) {
            end_silent_servers();
        }
        if (g_client_number != number) {
            continue;
        }
        if (has_gone && now_ms() >= deadline_ms) {
            _exit(kClientGoneExit);
        }
        if (has_gone || client < 0) {
            continue;
        }
        if (fds[2].revents & POLLNVAL) {
            // Closed here without being unwatched first: watching on would spin.
            g_client_fd = -1;
            continue;
        }
        const bool silent = ready == 0 && is_silent(client);
        if (silent || (fds[2].revents & (POLLRDHUP | POLLHUP | POLLERR))) {
            g_abort_flag.store(1);
            if (silent) {
                // Ends a blocking receive, too.
                shutdown(client, SHUT_RDWR);
            }
            has_gone    = true;
            gone_number = number;
            deadline_ms = now_ms() + kGoneGraceMs;
        }
    }
}

} // namespace

// Starts the watcher: this process exits as soon as the other end of parent_fd is closed.
API int io_watch_parent(int parent_fd) {
    if (g_wake[0] >= 0) {
        return -EALREADY;
    }
    if (pipe(g_wake) < 0) {
        return -errno;
    }
    fcntl(g_wake[0], F_SETFD, FD_CLOEXEC);
    fcntl(g_wake[1], F_SETFD, FD_CLOEXEC);
    g_parent_fd = parent_fd;
    pthread_t thread;
    // The watcher must not take signals meant for the main thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&thread, nullptr, watch, nullptr);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (rc != 0) {
        return -rc;
    }
    pthread_detach(thread);
    return 0;
}

namespace {

// Makes the watcher look at what it watches anew.
void wake_watcher() {
    const char byte = 1;
    if (g_wake[1] >= 0 && write(g_wake[1], &byte, 1) < 0) {
        return;
    }
}

} // namespace

// Watches a client's connection; -1 stops watching. When the peer closes its sending side the abort flag
// is raised, and when nobody stops watching within a second then, the process ends with exit code 3.
// Setting a client lowers the flag.
API void io_watch_client(int fd) {
    {
        std::lock_guard<std::mutex> lock(g_client_mutex);
        g_abort_flag.store(0);
        g_client_fd = fd;
        g_client_number++;
    }
    wake_watcher();
}

// Watches a connection to a server: it is ended when the server owes acknowledgements and its host gives
// none for 20 seconds. Without it a blocking call would wait for the system's retransmissions, a quarter of
// an hour.
API void io_watch_server(int fd) {
    {
        std::lock_guard<std::mutex> lock(g_client_mutex);
        g_servers.push_back({fd, false});
    }
    wake_watcher();
}

// Ends that, before the descriptor is closed. 1 when the connection was ended for its silence.
API int io_unwatch_server(int fd) {
    std::lock_guard<std::mutex> lock(g_client_mutex);
    for (size_t i = 0; i < g_servers.size(); i++) {
        if (g_servers[i].fd == fd) {
            const bool silent = g_servers[i].is_silent;
            g_servers.erase(g_servers.begin() + long(i));
            return silent ? 1 : 0;
        }
    }
    return 0;
}

// The flag that ggml's abort callback reads (see gs_backend_set_abort_flag).
API void * io_abort_flag() {
    return &g_abort_flag;
}

// Makes SIGUSR2 raise the abort flag: the only way into a process that is inside a blocking call.
API int io_abort_on_signal() {
    struct sigaction action{};
    action.sa_handler = [](int) { g_abort_flag.store(1); };
    action.sa_flags   = SA_RESTART;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGUSR2, &action, nullptr) == 0 ? 0 : -errno;
}

// Ctrl-C and a closed terminal signal the whole group: for a child whose parent decides when it ends.
API void io_ignore_terminal_signals() {
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

API void io_clear_abort() {
    g_abort_flag.store(0);
}

API void io_raise_abort() {
    g_abort_flag.store(1);
}

// ---- the process ---------------------------------------------------------------------------------

namespace {

// Says what happened in one line, and lets the signal end the process.
void on_crash(int signal, siginfo_t * info, void *) {
    char text[96];
    const char * name = signal == SIGSEGV ? "SIGSEGV" : signal == SIGBUS ? "SIGBUS" : signal == SIGFPE ? "SIGFPE" : signal == SIGABRT ? "SIGABRT" : "SIGILL";
    const int size = snprintf(text, sizeof(text), "ggml crash: %s at %p\n", name, info->si_addr);
    if (size > 0 && write(2, text, size_t(size)) < 0) {
        _exit(128 + signal);
    }
    // The handler is reset (SA_RESETHAND): this one ends the process once the handler returns, also when
    // another process sent the signal.
    raise(signal);
}

} // namespace

// Prepares a process whose crash is nothing special: no core dump of gigabytes of weights, no crash report
// of the runtime, and first in line when memory runs out, so that no other process is ended for it.
API void io_expect_crash() {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "500", 3) < 0) {
            // Not permitted: then it is as likely to be ended as any other.
        }
        close(fd);
    }
    struct sigaction action{};
    action.sa_sigaction = on_crash;
    action.sa_flags     = SA_SIGINFO | int(SA_RESETHAND);
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
        sigaction(signal, &action, nullptr);
    }
}

// Ends the process at once, without what runtimes and drivers do at their end.
API void io_exit(int code) {
    _exit(code);
}

// Lets receiving fail with -EAGAIN after so many milliseconds without a byte; 0 waits for ever.
API int io_set_receive_timeout(int fd, double timeout_ms) {
    timeval limit{};
    limit.tv_sec  = long(timeout_ms / 1000);
    limit.tv_usec = int((timeout_ms - double(limit.tv_sec) * 1000) * 1000);
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 ? 0 : -errno;
}

// ---- errors --------------------------------------------------------------------------------------

API const char * io_error_text(int error) {
    if (error <= kResolveErrorBase) {
        // The sign of EAI_* differs between systems.
        const int code = kResolveErrorBase - error;
        return gai_strerror(EAI_NONAME < 0 ? -code : code);
    }
    return strerror(error < 0 ? -error : error);
}
