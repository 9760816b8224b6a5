// Counts what a process that it is preloaded into (LD_PRELOAD) does on TCP sockets by send and recv, as upstream's RPC client does, and
// writes it at the end to the file that COUNT_TRAFFIC names: bytes each way, calls of send, and waits, which are the first receive
// after something was sent on that socket.

#include <dlfcn.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<unsigned long long> sent_bytes{0}, received_bytes{0}, writes{0}, waits{0};

constexpr int most_sockets = 4096;
std::atomic<bool> has_sent[most_sockets];

bool counts(int fd) { return fd >= 0 && fd < most_sockets; }

struct report {
    ~report() {
        const char * path = getenv("COUNT_TRAFFIC");
        FILE *       file = path == nullptr ? nullptr : fopen(path, "w");
        if (file == nullptr) {
            return;
        }
        fprintf(file, "{\"sentBytes\":%llu,\"receivedBytes\":%llu,\"writes\":%llu,\"waits\":%llu}\n", sent_bytes.load(),
                received_bytes.load(), writes.load(), waits.load());
        fclose(file);
    }
} at_end;

}  // namespace

extern "C" ssize_t send(int fd, const void * data, size_t size, int flags) {
    static const auto real = reinterpret_cast<ssize_t (*)(int, const void *, size_t, int)>(dlsym(RTLD_NEXT, "send"));
    const ssize_t     sent = real(fd, data, size, flags);
    if (sent > 0 && counts(fd)) {
        sent_bytes += size_t(sent);
        writes++;
        has_sent[fd] = true;
    }
    return sent;
}

extern "C" ssize_t recv(int fd, void * data, size_t size, int flags) {
    static const auto real = reinterpret_cast<ssize_t (*)(int, void *, size_t, int)>(dlsym(RTLD_NEXT, "recv"));
    const ssize_t     got  = real(fd, data, size, flags);
    if (got > 0 && counts(fd)) {
        received_bytes += size_t(got);
        waits += has_sent[fd].exchange(false) ? 1 : 0;
    }
    return got;
}
