// delay-relay: a TCP relay on loopback that holds back every byte for a given time, each way, as a longer wire would: rates stay what
// they are. Timers of a JavaScript runtime are a millisecond apart; this one's are a thread that sleeps until a byte's time has come.
//
// delay-relay PORT MILLISECONDS: relays to 127.0.0.1:PORT, and prints the port that it listens on.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

int64_t delay_ns = 0;

int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

void sleep_until(int64_t ns) {
    const timespec until{ time_t(ns / 1'000'000'000), long(ns % 1'000'000'000) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) != 0) {
    }
}

bool send_all(int fd, const char * data, size_t size) {
    while (size > 0) {
        const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        data += sent;
        size -= size_t(sent);
    }
    return true;
}

// What a long wire can hold; a sender waits beyond that.
constexpr size_t most_bytes = 256 * 1024 * 1024;

// One direction of a connection: bytes wait with the time at which they may go on.
struct line {
    struct piece {
        int64_t           due_ns;
        std::vector<char> bytes;
    };
    std::mutex              mutex;
    std::condition_variable changed;
    std::deque<piece>       waiting;
    size_t                  waiting_bytes = 0;
    bool                    is_over       = false;

    void take_from(int fd) {
        std::vector<char> block(1 << 20);
        for (;;) {
            const ssize_t got = recv(fd, block.data(), block.size(), 0);
            std::unique_lock<std::mutex> lock(mutex);
            if (got <= 0) {
                is_over = true;
                changed.notify_all();
                return;
            }
            changed.wait(lock, [this] { return waiting_bytes < most_bytes || is_over; });
            if (is_over) {
                return;
            }
            waiting.push_back({ now_ns() + delay_ns, { block.data(), block.data() + got } });
            waiting_bytes += size_t(got);
            changed.notify_all();
        }
    }

    void give_to(int fd) {
        for (;;) {
            piece next;
            {
                std::unique_lock<std::mutex> lock(mutex);
                changed.wait(lock, [this] { return !waiting.empty() || is_over; });
                if (waiting.empty()) {
                    break;
                }
                next = std::move(waiting.front());
                waiting.pop_front();
            }
            sleep_until(next.due_ns);
            const bool is_sent = send_all(fd, next.bytes.data(), next.bytes.size());
            std::lock_guard<std::mutex> lock(mutex);
            waiting_bytes -= next.bytes.size();
            is_over |= !is_sent;
            changed.notify_all();
            if (!is_sent) {
                break;
            }
        }
        shutdown(fd, SHUT_WR);
    }
};

void no_delay(int fd) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

sockaddr_in loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family      = AF_INET;
    address.sin_port        = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

void relay(int client, uint16_t port) {
    const int         server  = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = loopback(port);
    if (connect(server, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) == 0) {
        no_delay(client);
        no_delay(server);
        line        up, down;
        std::thread threads[] = {
            std::thread([&] { up.take_from(client); }),
            std::thread([&] { up.give_to(server); }),
            std::thread([&] { down.take_from(server); }),
            std::thread([&] { down.give_to(client); }),
        };
        for (auto & thread : threads) {
            thread.join();
        }
    }
    close(server);
    close(client);
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 3) {
        fprintf(stderr, "delay-relay PORT MILLISECONDS\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // The kernel may let a sleep be late by this much, 50 us unless told.
    prctl(PR_SET_TIMERSLACK, 1000UL);
    const auto port = uint16_t(atoi(argv[1]));
    delay_ns        = int64_t(atof(argv[2]) * 1e6);

    const int   listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address  = loopback(0);
    socklen_t   size     = sizeof(address);
    if (bind(listener, reinterpret_cast<sockaddr *>(&address), size) != 0 || listen(listener, 64) != 0 ||
        getsockname(listener, reinterpret_cast<sockaddr *>(&address), &size) != 0) {
        perror("delay-relay");
        return 1;
    }
    printf("%d\n", int(ntohs(address.sin_port)));
    fflush(stdout);
    for (;;) {
        const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (client >= 0) {
            std::thread(relay, client, port).detach();
        }
    }
}
