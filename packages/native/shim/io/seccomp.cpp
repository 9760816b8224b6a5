// Giving up system calls for good, on every thread of this process: all but those that serving a client takes (Linux seccomp).

#include "api.h"

#include <cerrno>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <initializer_list>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

namespace {

#ifdef __x86_64__
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

// linux/seccomp.h of Linux 4.14 and 4.17.
constexpr uint32_t kKillProcess = 0x80000000U;
constexpr unsigned kAllThreads  = 1;
// Without it, kernels before 5.16 turn speculation of stores off for the process, which slows kernels of ggml down;
// that guards secrets of a process from code inside it, and there are none here.
constexpr unsigned kKeepSpeculation = 4;

constexpr uint32_t kAllow     = SECCOMP_RET_ALLOW;
constexpr uint32_t kForbidden = SECCOMP_RET_ERRNO | EPERM;
// For calls that a library may try: it finds another way, as on a kernel that does not have them.
constexpr uint32_t kUnknown   = SECCOMP_RET_ERRNO | ENOSYS;

// Reads, writes, waits, memory, threads, time, and what they report. What is opened is Landlock's matter.
constexpr int kNeeded[] = {
    // Files and descriptors.
    __NR_read, __NR_write, __NR_readv, __NR_writev, __NR_pread64, __NR_pwrite64, __NR_preadv, __NR_pwritev, __NR_close,
    __NR_lseek, __NR_fstat, __NR_newfstatat, __NR_statx, __NR_openat, __NR_faccessat, __NR_readlinkat, __NR_unlinkat,
    __NR_renameat, __NR_renameat2, __NR_mkdirat, __NR_getdents64, __NR_ftruncate, __NR_fsync, __NR_fdatasync, __NR_fallocate,
    __NR_fadvise64, __NR_flock, __NR_utimensat, __NR_statfs, __NR_fstatfs, __NR_getcwd, __NR_dup, __NR_dup3, __NR_pipe2,
    __NR_eventfd2, __NR_epoll_create1, __NR_epoll_ctl, __NR_epoll_pwait, __NR_ppoll, __NR_pselect6, __NR_timerfd_create,
    __NR_timerfd_settime, __NR_timerfd_gettime,
    // Sockets that were handed over.
    __NR_recvfrom, __NR_recvmsg, __NR_shutdown, __NR_getsockopt, __NR_getsockname, __NR_getpeername,
    // Memory.
    __NR_munmap, __NR_mremap, __NR_mprotect, __NR_madvise, __NR_brk, __NR_msync, __NR_mincore, __NR_membarrier,
    // Threads and signals of this process.
    __NR_futex, __NR_set_robust_list, __NR_get_robust_list, __NR_set_tid_address, __NR_gettid, __NR_getpid, __NR_getppid,
    __NR_exit, __NR_exit_group, __NR_sched_yield, __NR_sched_getaffinity, __NR_sched_getparam, __NR_sched_getscheduler,
    __NR_sched_get_priority_max, __NR_sched_get_priority_min, __NR_getpriority, __NR_rt_sigaction, __NR_rt_sigprocmask,
    __NR_rt_sigreturn, __NR_rt_sigtimedwait, __NR_rt_sigsuspend, __NR_rt_sigpending, __NR_sigaltstack, __NR_restart_syscall,
    // Time, and what there is to know.
    __NR_clock_gettime, __NR_clock_getres, __NR_clock_nanosleep, __NR_nanosleep, __NR_gettimeofday, __NR_times,
    __NR_timer_create, __NR_timer_settime, __NR_timer_gettime, __NR_timer_getoverrun, __NR_timer_delete, __NR_getitimer,
    __NR_setitimer, __NR_uname, __NR_sysinfo, __NR_getrusage, __NR_getcpu, __NR_getrandom, __NR_getuid, __NR_geteuid,
    __NR_getgid, __NR_getegid, __NR_getresuid, __NR_getresgid, __NR_getgroups, __NR_getpgid, __NR_getsid,
#ifdef __NR_rseq
    __NR_rseq,
#endif
#ifdef __NR_faccessat2
    __NR_faccessat2,
#endif
#ifdef __NR_close_range
    __NR_close_range,
#endif
#ifdef __NR_openat2
    __NR_openat2,
#endif
#ifdef __NR_epoll_pwait2
    __NR_epoll_pwait2,
#endif
#ifdef __NR_futex_waitv
    __NR_futex_waitv,
#endif
#ifdef __x86_64__
    __NR_open, __NR_stat, __NR_lstat, __NR_access, __NR_readlink, __NR_unlink, __NR_rename, __NR_mkdir, __NR_getdents,
    __NR_poll, __NR_select, __NR_epoll_create, __NR_epoll_wait, __NR_eventfd, __NR_pipe, __NR_dup2, __NR_time, __NR_pause,
    __NR_getpgrp, __NR_getrlimit, __NR_arch_prctl,
#endif
};

// What drivers of GPUs take besides.
constexpr int kNeededByDrivers[] = {
    __NR_mmap, __NR_mlock, __NR_mlock2, __NR_munlock, __NR_mbind, __NR_get_mempolicy, __NR_set_mempolicy, __NR_memfd_create,
    __NR_sched_setaffinity, __NR_socketpair,
};

// What links between servers take besides, with the names that clients give of them.
constexpr int kNeededByLinks[] = {
    __NR_connect, __NR_bind, __NR_listen, __NR_accept, __NR_accept4, __NR_sendmmsg,
};

// What libraries try, and do without.
constexpr int kForbiddenCalls[] = {
    __NR_socket, __NR_socketpair, __NR_setrlimit, __NR_sched_setaffinity, __NR_sched_setscheduler, __NR_sched_setparam,
    __NR_setpriority, __NR_tkill, __NR_memfd_create, __NR_mlock,
#ifdef __x86_64__
    __NR_fork, __NR_vfork,
#endif
};

// What nobody tries who only serves: such a process is no longer ours.
constexpr int kFatal[] = {
    __NR_execve, __NR_execveat, __NR_ptrace, __NR_process_vm_readv, __NR_process_vm_writev, __NR_connect, __NR_bind, __NR_listen,
    __NR_accept, __NR_accept4, __NR_bpf, __NR_perf_event_open, __NR_userfaultfd, __NR_keyctl, __NR_add_key, __NR_request_key,
    __NR_mount, __NR_umount2, __NR_pivot_root, __NR_chroot, __NR_setns, __NR_unshare, __NR_open_by_handle_at, __NR_init_module,
    __NR_finit_module, __NR_delete_module, __NR_kexec_load, __NR_reboot, __NR_swapon, __NR_swapoff, __NR_syslog, __NR_acct,
    __NR_settimeofday, __NR_clock_settime, __NR_adjtimex, __NR_clock_adjtime, __NR_sethostname, __NR_setdomainname, __NR_setuid,
    __NR_setgid, __NR_setreuid, __NR_setregid, __NR_setresuid, __NR_setresgid, __NR_setfsuid, __NR_setfsgid, __NR_setgroups,
    __NR_capset, __NR_personality, __NR_rt_sigqueueinfo, __NR_rt_tgsigqueueinfo,
#ifdef __NR_pidfd_getfd
    __NR_pidfd_getfd,
#endif
#ifdef __NR_pidfd_send_signal
    __NR_pidfd_send_signal,
#endif
#ifdef __x86_64__
    __NR_iopl, __NR_ioperm, __NR_modify_ldt,
#endif
};

constexpr uint32_t kFastOpen = 0x20000000; // MSG_FASTOPEN: connects

// Ways to have signals sent to, and to type for, other processes (asm-generic/sockios.h, ioctls.h).
constexpr uint32_t kSetOwner = 0x8901, kSetGroup = 0x8902, kTypeInto = 0x5412, kConsole = 0x541C;

constexpr uint32_t kNoVolatileName = 0x53564d41; // PR_SET_VMA: allocators name their memory

// A program of the kernel's packet filter that looks at one system call.
class filter {
  public:
    filter() {
        load(offsetof(seccomp_data, arch));
        add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
        result(kKillProcess);
        load(offsetof(seccomp_data, nr));
    }

    void result(uint32_t value) { add(BPF_RET | BPF_K, value); }

    // For calls whatever their arguments are.
    template <size_t N> void calls(const int (&numbers)[N], uint32_t value) {
        for (const int number : numbers) {
            add(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(number), 0, 1);
            result(value);
        }
    }

    // Allows a call whose argument, of 32 bits, is one of these; another one is `otherwise`.
    void call_with(int number, int argument, std::initializer_list<uint32_t> values, uint32_t mask = ~0U) {
        const size_t start = begin(number);
        load_argument(argument, 0);
        mask_with(mask);
        for (const uint32_t value : values) {
            add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
            result(kAllow);
        }
        end(start);
    }

    // Allows a call whose argument is one of these, or is `special` while the next argument is one of `nexts`.
    void call_with(int number, int argument, std::initializer_list<uint32_t> values, uint32_t special, std::initializer_list<uint32_t> nexts) {
        const size_t start = begin(number);
        load_argument(argument, 0);
        for (const uint32_t value : values) {
            add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
            result(kAllow);
        }
        add(BPF_JMP | BPF_JEQ | BPF_K, special, 1, 0);
        result(kForbidden);
        load_argument(argument + 1, 0);
        for (const uint32_t value : nexts) {
            add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
            result(kAllow);
        }
        end(start);
    }

    // Allows a call whose argument is none of these.
    void call_without(int number, int argument, std::initializer_list<uint32_t> values, uint32_t mask = ~0U) {
        const size_t start = begin(number);
        load_argument(argument, 0);
        mask_with(mask);
        for (const uint32_t value : values) {
            add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
            result(kForbidden);
        }
        end(start, kAllow);
    }

    // Allows a call whose argument, an address, is null.
    void call_with_null(int number, int argument) {
        const size_t start = begin(number);
        load_argument(argument, 0);
        add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
        result(kForbidden);
        load_argument(argument, 4);
        add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
        result(kForbidden);
        end(start, kAllow);
    }

    int install() {
        const sock_fprog program{static_cast<unsigned short>(m_code.size()), m_code.data()};
        return int(syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, kAllThreads | kKeepSpeculation, &program));
    }

  private:
    std::vector<sock_filter> m_code;

    void add(int code, uint32_t value, uint8_t if_true = 0, uint8_t if_false = 0) {
        m_code.push_back({static_cast<uint16_t>(code), if_true, if_false, value});
    }

    void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, uint32_t(offset)); }

    // A half of an argument; both architectures are little-endian.
    void load_argument(int argument, size_t half) { load(offsetof(seccomp_data, args) + size_t(argument) * 8 + half); }

    void mask_with(uint32_t mask) {
        if (mask != ~0U) {
            add(BPF_ALU | BPF_AND | BPF_K, mask);
        }
    }

    size_t begin(int number) {
        add(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(number), 0, 0);
        return m_code.size();
    }

    // What is left of a call's part; other calls go on behind it, still with the number loaded.
    void end(size_t start, uint32_t otherwise = kForbidden) {
        result(otherwise);
        m_code[start - 1].jf = uint8_t(m_code.size() - start);
    }
};

// Bits of io_forbid_calls.
constexpr int kHasDrivers = 1;
constexpr int kMakesLinks = 2;

// What runs for every token comes first.
void add_restricted_calls(filter & made, int needs) {
    const uint32_t self = uint32_t(getpid());
    made.call_without(__NR_sendto, 3, {kFastOpen}, kFastOpen);
    made.call_without(__NR_sendmsg, 2, {kFastOpen}, kFastOpen);
    if ((needs & kHasDrivers) == 0) {
        // Private memory alone: what is shared is not counted by the limits of this process. 8 is MAP_DROPPABLE.
        made.call_with(__NR_mmap, 3, {MAP_PRIVATE, 8}, 0xf);
        made.call_with(__NR_ioctl, 1, {TCGETS, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TIOCGWINSZ});
    } else {
        made.call_without(__NR_ioctl, 1, {kSetOwner, kSetGroup, kTypeInto, kConsole});
    }
    if ((needs & kMakesLinks) != 0) {
        made.call_with(__NR_socket, 0, {AF_INET, AF_INET6});
    }
    made.call_with(__NR_clone, 0, {CLONE_THREAD}, CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID);
    made.call_with(__NR_tgkill, 0, {self});
    made.call_with(__NR_kill, 0, {self});
    made.call_with(__NR_setsockopt, 1, {SOL_SOCKET, 6});
    // A writer's lease would make others wait for the file.
    made.call_with(__NR_fcntl, 1, {F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC,
        F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW}, F_SETLEASE, {F_RDLCK, F_UNLCK});
    made.call_with(__NR_prctl, 0, {PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_GET_TIMERSLACK, PR_SET_TIMERSLACK, kNoVolatileName});
    made.call_with_null(__NR_prlimit64, 2);
}

} // namespace

// Takes the calls away from all threads. needs: 1 leaves what drivers of GPUs take, 2 what links to other servers take. 0 or a
// negative errno.
API int io_forbid_calls(int needs) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return -errno;
    }
    filter made;
    add_restricted_calls(made, needs);
    made.calls(kNeeded, kAllow);
    if ((needs & kHasDrivers) != 0) {
        made.calls(kNeededByDrivers, kAllow);
    }
    if ((needs & kMakesLinks) != 0) {
        made.calls(kNeededByLinks, kAllow);
    }
    made.calls(kForbiddenCalls, kForbidden);
    made.calls(kFatal, kKillProcess);
    made.result(kUnknown);
    const int thread = made.install();
    // A thread that has a filter of its own cannot take this one.
    return thread == 0 ? 0 : thread < 0 ? -errno : -ESRCH;
}

#else

API int io_forbid_calls(int) {
    return -ENOSYS;
}

#endif
