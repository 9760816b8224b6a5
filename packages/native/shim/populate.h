#pragma once

#include <cstddef>
#include <cstdint>
#include <sys/mman.h>
#include <unistd.h>

// Takes the pages of a range that is about to be written from the system in one call (Linux 5.14): one by one,
// each with a fault of its own, fresh memory takes half as long again. Where that does not work the faults come.
inline void populate(void * start, size_t size) {
#ifdef MADV_POPULATE_WRITE
    static const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    const uintptr_t from = reinterpret_cast<uintptr_t>(start) / page * page;
    madvise(reinterpret_cast<void *>(from), reinterpret_cast<uintptr_t>(start) + size - from, MADV_POPULATE_WRITE);
#else
    (void) start;
    (void) size;
#endif
}
