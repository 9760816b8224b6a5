// Giving up privileges, the file system and new TCP connections for good, on every thread of this process (Linux: capabilities,
// Landlock).

#include "api.h"

#include <cerrno>
#include <cstdint>

#ifdef __linux__
#include "clock.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <iterator>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

// linux/landlock.h of ABI 7, which the system's headers may be too old for. The numbers are those of all architectures.
namespace {

constexpr long kCreateRuleset = 444;
constexpr long kAddRule       = 445;
constexpr long kRestrictSelf  = 446;

constexpr uint32_t kVersionFlag = 1;
constexpr int      kPathBeneath = 1;

struct ruleset_attributes {
    uint64_t handled_access_fs;
    uint64_t handled_access_net;
    uint64_t scoped;
};

struct __attribute__((packed)) path_beneath_attributes {
    uint64_t allowed_access;
    int32_t  parent_fd;
};

constexpr uint64_t kWriteFile  = 1 << 1;
constexpr uint64_t kReadFile   = 1 << 2;
constexpr uint64_t kReadDir    = 1 << 3;
constexpr uint64_t kRemoveFile = 1 << 5;
constexpr uint64_t kMakeDir    = 1 << 7;
constexpr uint64_t kMakeReg    = 1 << 8;
constexpr uint64_t kRefer      = 1 << 13;
constexpr uint64_t kTruncate   = 1 << 14;
constexpr uint64_t kIoctlDev   = 1 << 15;
// What each ABI added, up to the one of its number.
constexpr uint64_t kFileRights[] = {0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1};
// Binding and connecting TCP sockets, from ABI 4.
constexpr uint64_t kTcpRights = 3;
// Connecting to abstract local sockets, from ABI 6. Signals are left to the filter of system calls: to Landlock the
// threads of this process are strangers to each other before Linux 6.15.
constexpr uint64_t kScopes = 1;

// Rights of io_landlock_allow.
constexpr uint64_t kRights[] = {
    kReadFile,
    kReadFile | kReadDir,
    kReadFile | kReadDir | kWriteFile | kRemoveFile | kMakeReg | kTruncate | kRefer,
    kReadFile | kReadDir | kWriteFile | kRemoveFile | kMakeReg | kTruncate | kMakeDir,
    kReadFile | kReadDir | kWriteFile | kIoctlDev,
    kReadFile | kReadDir | kRemoveFile | kMakeReg | kRefer,
};
// Those that a rule for one file may have.
constexpr uint64_t kRightsOfFiles = kReadFile | kWriteFile | kTruncate | kIoctlDev | 1;

uint64_t file_rights(int abi) {
    return kFileRights[std::min(abi, 5)];
}

int landlock_abi() {
    const long abi = syscall(kCreateRuleset, nullptr, 0, kVersionFlag);
    return abi < 0 ? -errno : int(abi);
}

// glibc and musl run a thread's part of setuid with it, so no thread can block it; nobody calls setuid here.
constexpr int kConfineSignal = 33;

// The kernel's own form of a signal action, whose fields are the C library's business.
struct kernel_action {
    void (*handler)(int);
    unsigned char others[64];
};
constexpr size_t kSignalSetBytes = 8;

constexpr int kMaxThreads = 1024;

bool               g_is_asked = false;
int                g_ruleset  = -1;
std::atomic<int>   g_failure{0};
// The threads that are confined, or failed to.
std::atomic<pid_t> g_confined[kMaxThreads];
std::atomic<int>   g_confined_count{0};

pid_t this_thread() {
    return pid_t(syscall(SYS_gettid));
}

// All that root may, but to write where the cache is another user's.
bool drop_capabilities() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    if (syscall(SYS_capget, &header, data) != 0) {
        return false;
    }
    data[0].effective &= 1u << CAP_DAC_OVERRIDE;
    data[0].permitted &= 1u << CAP_DAC_OVERRIDE;
    data[0].inheritable = data[1].effective = data[1].permitted = data[1].inheritable = 0;
    return syscall(SYS_capset, &header, data) == 0;
}

// For the thread that it runs on, and all that this one starts.
void confine() {
    const int place = g_confined_count.fetch_add(1);
    if (place >= kMaxThreads) {
        g_failure.store(E2BIG);
        return;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !drop_capabilities() ||
        (g_ruleset >= 0 && syscall(kRestrictSelf, g_ruleset, 0) != 0)) {
        g_failure.store(errno);
    }
    g_confined[place].store(this_thread());
}

void on_confine_signal(int) {
    const int saved = errno;
    confine();
    errno = saved;
}

// Makes `handler` that of the signal, and returns what was before; the C library refuses to.
void swap_action(int signal, const kernel_action * next, kernel_action * before) {
    syscall(SYS_rt_sigaction, signal, next, before, kSignalSetBytes);
}

void take_signal(kernel_action * before) {
    // What the C library makes of an action for another signal: flags and the way back are its own.
    struct sigaction action{}, sigsys{};
    action.sa_handler = on_confine_signal;
    action.sa_flags   = SA_RESTART;
    sigfillset(&action.sa_mask);
    kernel_action ours{};
    sigaction(SIGSYS, &action, &sigsys);
    swap_action(SIGSYS, nullptr, &ours);
    sigaction(SIGSYS, &sigsys, nullptr);
    swap_action(kConfineSignal, &ours, before);
}

// Asks each other thread that was not asked; how many there were.
int ask_threads(std::vector<pid_t> & asked, DIR * tasks) {
    const pid_t self = this_thread();
    int count = 0;
    rewinddir(tasks);
    while (const dirent * entry = readdir(tasks)) {
        const pid_t thread = pid_t(atoi(entry->d_name));
        if (thread <= 0 || thread == self || std::find(asked.begin(), asked.end(), thread) != asked.end()) {
            continue;
        }
        if (syscall(SYS_tgkill, getpid(), thread, kConfineSignal) == 0) {
            asked.push_back(thread);
            count++;
        }
    }
    return count;
}

constexpr double kConfineTimeoutMs = 2000;

// Whether all that were asked are confined, or are no more.
bool are_confined(const std::vector<pid_t> & asked) {
    return std::all_of(asked.begin(), asked.end(), [](pid_t thread) {
        return std::find(std::begin(g_confined), std::end(g_confined), thread) != std::end(g_confined) ||
            syscall(SYS_tgkill, getpid(), thread, 0) != 0;
    });
}

// All threads but this one. One that is started meanwhile is found in the next round, unless its starter was confined.
int confine_others() {
    DIR * tasks = opendir("/proc/self/task");
    if (tasks == nullptr) {
        return -errno;
    }
    std::vector<pid_t> asked;
    const double deadline = now_ms() + kConfineTimeoutMs;
    bool all = false;
    while (!all && now_ms() < deadline) {
        const bool is_new = ask_threads(asked, tasks) > 0;
        all = !is_new && are_confined(asked);
        if (!all) {
            usleep(100);
        }
    }
    closedir(tasks);
    return all ? -g_failure.load() : -ETIMEDOUT;
}

} // namespace

// The version of the kernel's Landlock, or a negative errno.
API int io_landlock_abi() {
    return landlock_abi();
}

// A descriptor for io_landlock_allow and io_confine_threads, which closes it; or a negative errno. makes_links leaves TCP.
API int io_landlock_new(int makes_links) {
    const int abi = landlock_abi();
    if (abi < 1) {
        return abi == 0 ? -ENOSYS : abi;
    }
    const uint64_t tcp_rights = abi >= 4 && makes_links == 0 ? kTcpRights : 0;
    const ruleset_attributes attributes{file_rights(abi), tcp_rights, abi >= 6 ? kScopes : 0};
    const size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    const long ruleset = syscall(kCreateRuleset, &attributes, size, 0);
    return ruleset < 0 ? -errno : int(ruleset);
}

// Lets this process go on using a file, or all below a folder, after io_confine_threads. 0 read files; 1 list folders as well;
// 2 also write, make and remove files, and move them away; 3 make folders, too, but move nothing; 4 use devices; 5 list, read and
// remove files, and take those that were made elsewhere, which nobody can write into from then on. -ENOENT when there is none.
API int io_landlock_allow(int ruleset, const char * path, int rights) {
    const int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    struct stat found{};
    uint64_t access = kRights[rights] & file_rights(landlock_abi());
    if (fstat(fd, &found) == 0 && !S_ISDIR(found.st_mode)) {
        access &= kRightsOfFiles;
    }
    const path_beneath_attributes attributes{access, fd};
    const int result = syscall(kAddRule, ruleset, kPathBeneath, &attributes, 0) == 0 ? 0 : -errno;
    close(fd);
    return result;
}

// Takes away, from all threads of this process and for good, root's privileges, the right to gain any, and whatever the
// ruleset does not allow; -1 is none. The number of threads, or a negative errno: then some of them may be confined.
API int io_confine_threads(int ruleset) {
    if (g_is_asked) {
        return -EALREADY;
    }
    g_is_asked = true;
    g_ruleset  = ruleset;
    kernel_action before{};
    take_signal(&before);
    const int result = confine_others();
    if (result == -ETIMEDOUT) {
        // A thread may still take the signal, which would end the process without a handler.
        return result;
    }
    swap_action(kConfineSignal, &before, nullptr);
    confine();
    if (ruleset >= 0) {
        close(ruleset);
    }
    return g_failure.load() == 0 ? g_confined_count.load() : -g_failure.load();
}

#else

API int io_landlock_abi() {
    return -ENOSYS;
}
API int io_landlock_new(int) {
    return -ENOSYS;
}
API int io_landlock_allow(int, const char *, int) {
    return -ENOSYS;
}
API int io_confine_threads(int) {
    return -ENOSYS;
}

#endif
