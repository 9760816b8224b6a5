// This process: what stops its work, its signals, its end.

#include "abort.h"
#include "api.h"
#include "clock.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <initializer_list>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

abort_flag g_abort_flag;

// What ggml's and libllama's abort callbacks read (see gs_backend_set_abort_flag).
API void * io_abort_flag() {
    return &g_abort_flag;
}

// 1 when what runs must stop.
API int io_abort_requested() {
    return abort_requested(&g_abort_flag) ? 1 : 0;
}

// Maps the file in which the host names requests that are to stop: kCancelSlots ids of 4 bytes. It is the only way into
// a process that is inside a blocking call, and what it says is about one request, whenever it is read.
API int io_map_cancels(int fd) {
    void * memory = mmap(nullptr, kCancelSlots * sizeof(uint32_t), PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return -errno;
    }
    g_abort_flag.cancelled = static_cast<const std::atomic<uint32_t> *>(memory);
    return 0;
}

// Maps 4 KiB of a file, for reading and writing, from an offset that is a multiple of 64 KiB (a page of any system); null when
// that fails.
API void * io_map_page(int fd, double offset) {
    void * memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset));
    return memory == MAP_FAILED ? nullptr : memory;
}

// Memory that costs nothing until it is written, and is zero; null when there is none. io_release_memory gives it back.
API void * io_reserve_memory(double size) {
    void * memory = mmap(nullptr, size_t(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

API void io_release_memory(void * memory, double size) {
    munmap(memory, size_t(size));
}

// The request whose cancel stops what runs from now on; 0 none.
API void io_set_running(uint32_t id) {
    g_abort_flag.running.store(id);
}

// 1 when the host wants this request stopped, whether it runs or not.
API int io_is_cancelled(uint32_t id) {
    return is_cancelled(g_abort_flag, id) ? 1 : 0;
}

// Ctrl-C and a closed terminal signal the whole group: for a child whose parent decides when it ends.
// A terminal's are the front process's matter; SIGIO tells who has a lease of a file that somebody opens it to write.
API void io_ignore_signals() {
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGIO, SIG_IGN);
}

API void io_clear_abort() {
    g_abort_flag.raised.store(0);
}

API void io_raise_abort() {
    g_abort_flag.raised.store(1);
}

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

namespace {

int lower_limit(int resource, rlim_t bytes) {
    rlimit limit{};
    if (getrlimit(resource, &limit) != 0) {
        return -errno;
    }
    limit.rlim_cur = limit.rlim_max = std::min(limit.rlim_max, bytes);
    return setrlimit(resource, &limit) == 0 ? 0 : -errno;
}

#ifdef __linux__
// 0 would still start a program that takes core dumps, where the system names one (Linux core(5)); 1 does not, and no file
// is that small.
constexpr rlim_t kNoCoreBytes = 1;
#else
constexpr rlim_t kNoCoreBytes = 0;
#endif

} // namespace

// Prepares a process whose crash is nothing special: no core dump of gigabytes of weights, no crash report
// of the runtime, and first in line when memory runs out, so that no other process is ended for it.
API void io_expect_crash() {
    lower_limit(RLIMIT_CORE, kNoCoreBytes);
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

// Lets others have the processor first; by the calling thread's and those that it starts. 0 or a negative errno.
API int io_lower_priority(int by) {
    errno = 0;
    const int now = getpriority(PRIO_PROCESS, 0);
    if (now == -1 && errno != 0) {
        return -errno;
    }
    return setpriority(PRIO_PROCESS, 0, now + by) == 0 ? 0 : -errno;
}

// Milliseconds for which the calling thread has had a processor.
API double io_thread_cpu_ms() {
    return clock_ms(CLOCK_THREAD_CPUTIME_ID);
}

// How many descriptors this process may have open; -1 for no limit.
API double io_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
        return -1;
    }
    return double(limit.rlim_cur);
}

// Limits, for good, this process's address space and the part of it that is private and writable. 0 or a negative errno.
API int io_limit_memory(double address_bytes, double data_bytes) {
    const int result = lower_limit(RLIMIT_AS, rlim_t(address_bytes));
    return result == 0 ? lower_limit(RLIMIT_DATA, rlim_t(data_bytes)) : result;
}

// Ends the process at once, without what runtimes and drivers do at their end.
API void io_exit(int code) {
    _exit(code);
}
