// Memory of a process in large pages, moved there while it has nothing else to do (Linux).

#include "api.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#ifdef __linux__
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // Linux 6.1
#endif

namespace {

constexpr int kAccess = PROT_READ | PROT_WRITE;

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

// For a file's pages, and kernels that cannot move a range where it is: its bytes by way of other memory. Nobody else may use the
// range meanwhile.
int replace(void * start, size_t size) {
    static std::unique_ptr<uint8_t[]> & copy = *new std::unique_ptr<uint8_t[]>();
    static size_t copy_size = 0;
    if (copy_size < size) {
        copy.reset(new (std::nothrow) uint8_t[size]);
        copy_size = copy == nullptr ? 0 : size;
        if (copy == nullptr) {
            return -ENOMEM;
        }
    }
    memcpy(copy.get(), start, size);
    if (mmap(start, size, kAccess, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
        return -errno;
    }
    madvise(start, size, MADV_HUGEPAGE);
    memcpy(start, copy.get(), size);
    return 1;
}

} // namespace

// Puts size bytes of private memory, a large page that starts at a multiple of its size, into one such page. Nothing else in the
// process may use them meanwhile. 1 when they are in one now, 0 when some of them were never written, a negative errno when the
// system has none to give.
API int io_enlarge_page(void * start, double size) {
    if (!is_there(start, size_t(size))) {
        return 0;
    }
    if (madvise(start, size_t(size), MADV_COLLAPSE) == 0) {
        return 1;
    }
    return errno == EINVAL ? replace(start, size_t(size)) : -errno;
}
#else
API int io_enlarge_page(void *, double) {
    return -ENOSYS;
}
#endif
