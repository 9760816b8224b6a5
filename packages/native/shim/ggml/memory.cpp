// Buffers, and what malloc and the system do for them.

#include "api.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "populate.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <new>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

constexpr size_t kHugeBufferBytes = size_t(16) << 20;

constexpr size_t kLargeBufferBytes = size_t(256) << 20;

#ifdef MADV_HUGEPAGE
namespace {

bool file_starts_with(const std::string & path, const char * text, size_t offset) {
    char content[64] = {};
    FILE * file = fopen(path.c_str(), "r");
    if (file == nullptr) {
        return false;
    }
    const size_t size = fread(content, 1, sizeof(content) - 1, file);
    fclose(file);
    return size >= offset && strncmp(content + offset, text, strlen(text)) == 0;
}

// Whether this is a virtual machine that hands free memory back to its host: a virtio balloon (device 5)
// with free page reporting (feature 5; Linux virtio_balloon.h). Linux reports what is free in large
// pages, so a large page is memory that the host has to find again, small page by small page: 870 MB
// take 1.5 to 5 s there, and 0.3 s in small pages, which are mostly still backed.
bool host_takes_free_memory() {
    DIR * devices = opendir("/sys/bus/virtio/devices");
    if (devices == nullptr) {
        return false;
    }
    bool found = false;
    while (const dirent * entry = found ? nullptr : readdir(devices)) {
        const std::string device = std::string("/sys/bus/virtio/devices/") + entry->d_name;
        found = file_starts_with(device + "/device", "0x0005", 0) && file_starts_with(device + "/features", "1", 5);
    }
    closedir(devices);
    return found;
}

bool large_pages_pay() {
    static const bool result = !host_takes_free_memory();
    return result;
}

} // namespace
#endif

// Blocks of at least this size come from the system as a rule, smaller ones from what was freed before; glibc's
// largest threshold unless gs_keep_heap set one.
static size_t kept_heap_bytes = size_t(32) << 20;

// Makes memory of malloc's zero: whoever gets it must not read what this process had there, its addresses for one.
// Large memory is handed back to the system, which gives zeros when it is written: most of it was never taken.
static void forget(void * start, size_t size) {
#ifdef __linux__
    if (size >= kept_heap_bytes) {
        const uintptr_t page  = uintptr_t(sysconf(_SC_PAGESIZE));
        const uintptr_t begin = reinterpret_cast<uintptr_t>(start);
        const uintptr_t end   = begin + size;
        const uintptr_t from  = (begin + page - 1) / page * page;
        const uintptr_t to    = end / page * page;
        if (from < to && madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED) == 0) {
            memset(start, 0, from - begin);
            memset(reinterpret_cast<void *>(to), 0, end - to);
            return;
        }
    }
#endif
    populate(start, size);
    memset(start, 0, size);
}

// Lets malloc keep freed memory for blocks up to this size, instead of giving it back and taking it again page by page.
API void gs_keep_heap(double size) {
    kept_heap_bytes = size_t(size);
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, int(size));
    mallopt(M_TRIM_THRESHOLD, int(2 * size));
#else
    (void) size;
#endif
}

// Gives malloc this much memory that was written already: buffers that fit come from there, without page faults.
API void gs_warm_heap(double size) {
    gs_keep_heap(size);
#ifdef __GLIBC__
    void * block = malloc(size_t(size) - 4096);
    if (block != nullptr) {
        populate(block, size_t(size) - 4096);
        free(block);
    }
#else
    (void) size;
#endif
}

API ggml_backend_buffer_t gs_buffer_alloc(ggml_backend_buffer_type_t type, double size) {
    try {
#ifdef __GLIBC__
        // What is kept for small models is of no use to this one.
        if (size_t(size) >= kLargeBufferBytes) {
            malloc_trim(0);
        }
#endif
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, size_t(size));
        if (buffer != nullptr && ggml_backend_buffer_is_host(buffer)) {
            forget(ggml_backend_buffer_get_base(buffer), ggml_backend_buffer_get_size(buffer));
        }
#ifdef MADV_HUGEPAGE
        // Weights are written once and read for every token: large pages save most of the page faults of the
        // one and the address translation of the other. Small buffers would only be rounded up.
        if (buffer != nullptr && size_t(size) >= kHugeBufferBytes && ggml_backend_buffer_is_host(buffer) &&
            large_pages_pay()) {
            const uintptr_t page  = uintptr_t(sysconf(_SC_PAGESIZE));
            const uintptr_t base  = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
            const uintptr_t start = (base + page - 1) / page * page;
            madvise(reinterpret_cast<void *>(start), base + size_t(size) - start, MADV_HUGEPAGE);
        }
#endif
        return buffer;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

API void gs_buffer_clear(ggml_backend_buffer_t buffer, int value) {
    if (ggml_backend_buffer_is_host(buffer)) {
        populate(ggml_backend_buffer_get_base(buffer), ggml_backend_buffer_get_size(buffer));
    }
    ggml_backend_buffer_clear(buffer, uint8_t(value));
}

API double gs_buffer_size(ggml_backend_buffer_t buffer) {
    return double(ggml_backend_buffer_get_size(buffer));
}

API double gs_buffer_base(ggml_backend_buffer_t buffer) {
    return double(reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer)));
}

API double gs_buft_alignment(ggml_backend_buffer_type_t type) {
    return double(ggml_backend_buft_get_alignment(type));
}

// 1 when every tensor takes just its own bytes in buffers of this type.
API int gs_buft_sizes_are_plain(ggml_backend_buffer_type_t type) {
    return type->iface.get_alloc_size == nullptr ? 1 : 0;
}

// SIZE_MAX (no limit) comes back as -1: a double cannot hold it.
API double gs_buft_max_size(ggml_backend_buffer_type_t type) {
    const size_t size = ggml_backend_buft_get_max_size(type);
    return size == SIZE_MAX ? -1.0 : double(size);
}
