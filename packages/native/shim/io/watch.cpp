// Watching other descriptors while JavaScript is inside a blocking call.

#include "abort.h"
#include "api.h"
#include "clock.h"
#include "hangup.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace {

// How long a process may go on computing for a client that is gone. Not every backend can be stopped
// by a flag, and the client's memory must not wait for a long operation.
constexpr double kGoneGraceMs = 1000;

// How often a graph is asked how long it has run, where that has a limit.
constexpr int kComputeCheckMs = 100;

// How often a connection is asked whether its peer still answers, and how long a peer that owes
// acknowledgements may give none. Keepalive does not cover that: it needs an idle connection.
constexpr int      kSilenceCheckMs = 5000;
constexpr unsigned kSilenceMs      = 20000;

// Exit code of a process that was ended for that reason.
constexpr int kClientGoneExit = 3;

// The same of one whose graph ran longer than it may.
constexpr int kOverdueExit = 4;

int g_wake[2] = {-1, -1};
int g_parent_fd = -1;

// How long a graph may run, 0 for ever, and when the one that runs began; 0 while none does.
std::atomic<double> g_compute_limit_ms{0};
std::atomic<double> g_compute_began_ms{0};
std::atomic<int>    g_overdue{0};

bool is_overdue() {
    const double limit = g_compute_limit_ms.load(), began = g_compute_began_ms.load();
    return limit > 0 && began > 0 && now_ms() - began > limit;
}

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
// abort flag is raised, so that a running graph stops), how long that runs (too long: the same), and servers (silent: their
// connections end).
// Blocking JavaScript can do none of it.
void * watch(void *) {
    bool     has_gone    = false;
    int      exit_code   = kClientGoneExit;
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
        const int idle = client < 0 && !has_servers ? -1 : client >= 0 && g_compute_limit_ms.load() > 0 ? kComputeCheckMs : kSilenceCheckMs;
        const int timeout = has_gone ? (left <= 0 ? 0 : int(left) + 1) : idle;
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
            _exit(exit_code);
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
        const bool left_us = (fds[2].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
        const bool overdue = !silent && !left_us && is_overdue();
        if (silent || left_us || overdue) {
            g_overdue.store(overdue);
            exit_code = overdue ? kOverdueExit : kClientGoneExit;
            g_abort_flag.raised.store(1);
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
        g_abort_flag.raised.store(0);
        g_overdue.store(0);
        g_compute_began_ms.store(0);
        g_client_fd = fd;
        g_client_number++;
    }
    wake_watcher();
}

// How long a graph of a client may run: then the abort flag is raised as if the client had gone, and the exit code is 4. 0 is
// for ever.
API void io_limit_compute(double ms) {
    g_compute_limit_ms.store(ms);
}

// A graph of the client begins, or is over. 1 when it was stopped for running too long.
API void io_compute_begins(void) {
    g_compute_began_ms.store(now_ms());
}

API int io_compute_ends(void) {
    g_compute_began_ms.store(0);
    return g_overdue.load();
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
