// Memory of a process in large pages, moved there between other things (Linux).

#include "api.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#ifdef __linux__
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // Linux 6.1
#endif

namespace {

// Whether all pages of a range have been written, or are in memory as a file's.
bool is_there(void * start, size_t size) {
    const auto page = size_t(sysconf(_SC_PAGESIZE));
    static std::vector<unsigned char> & there = *new std::vector<unsigned char>();
    there.resize(size / page);
    if (mincore(start, size, there.data()) < 0) {
        return false;
    }
    for (const unsigned char present : there) {
        if ((present & 1) == 0) {
            return false;
        }
    }
    return true;
}

// Fresh memory in large pages, which takes the places of others one after the other: what lies side by side there lies side by side
// here, so that it becomes one mapping again, of which a process may have some 65,000.
struct fresh_pages {
    char * next = nullptr;
    char * end  = nullptr;

    // The next one, or null.
    char * take(size_t size) {
        constexpr size_t kCount = 32;
        if (next == end) {
            const size_t mapped = (kCount + 1) * size;
            void * start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (start == MAP_FAILED) {
                return nullptr;
            }
            char * first = static_cast<char *>(start);
            next = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(start) + size - 1) / size * size);
            end  = next + kCount * size;
            if (next > first) {
                munmap(first, size_t(next - first));
            }
            if (end < first + mapped) {
                munmap(end, size_t(first + mapped - end));
            }
            madvise(next, size_t(end - next), MADV_HUGEPAGE);
        }
        return next;
    }
};

// For a file's pages, and kernels that cannot move a range where it is. Nobody else may use the range meanwhile.
int replace(void * start, size_t size) {
    static fresh_pages fresh;
    char * page = fresh.take(size);
    if (page == nullptr) {
        return -ENOMEM;
    }
    memcpy(page, start, size);
    if (mremap(page, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start) == MAP_FAILED) {
        return -errno;
    }
    fresh.next += size;
    return 1;
}

} // namespace

// Puts size bytes of private memory, a large page that starts at a multiple of its size, into one such page. Nothing else in the
// process may use them meanwhile, and the size is always the same. 1 when they are in one now; 0 when that cannot be now: some of
// them were never written, or the system is busy with one; a negative errno when the system has none to give.
API int io_enlarge_page(void * start, double size) {
    if (!is_there(start, size_t(size))) {
        return 0;
    }
    if (madvise(start, size_t(size), MADV_COLLAPSE) == 0) {
        return 1;
    }
    return errno == EINVAL ? replace(start, size_t(size)) : errno == EAGAIN ? 0 : -errno;
}
#else
API int io_enlarge_page(void *, double) {
    return -ENOSYS;
}
#endif
