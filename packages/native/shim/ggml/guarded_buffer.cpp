// Host buffers of which nothing else is within reach.

#include "guarded_buffer.h"
#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dirent.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace {

// On either side: address space, not memory.
constexpr size_t kGuardBytes = size_t(64) << 20;

// What ggml aligns its own buffers to.
constexpr size_t kAlignment = 64;

#ifdef MADV_HUGEPAGE
constexpr size_t kHugeBufferBytes = size_t(16) << 20;

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

// Found when the library is loaded: a process that serves strangers cannot look into /sys any more.
const bool g_large_pages_pay = !host_takes_free_memory();
#endif

size_t round_up(size_t size, size_t step) {
    return (size + step - 1) / step * step;
}

// A buffer's data, the pages that it lies in, a page behind them that is never written, and the guards around all.
struct guarded_region {
    size_t tail_bytes;
    size_t data_bytes;
    size_t page_bytes;

    explicit guarded_region(size_t size)
        : tail_bytes(size_t(sysconf(_SC_PAGESIZE))),
          data_bytes(round_up(size, kAlignment)),
          page_bytes(round_up(data_bytes, tail_bytes)) {}

    size_t total_bytes() const { return page_bytes + tail_bytes + 2 * kGuardBytes; }

    // From the start of the region to the data, which ends at the last page or less than kAlignment before it.
    size_t data_offset() const { return kGuardBytes + page_bytes - data_bytes; }
};

void * map_guarded(const guarded_region & region) {
    void * start = mmap(nullptr, region.total_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (start == MAP_FAILED) {
        return nullptr;
    }
    char * pages = static_cast<char *>(start) + kGuardBytes;
    if (mprotect(pages, region.page_bytes, PROT_READ | PROT_WRITE) != 0 ||
        mprotect(pages + region.page_bytes, region.tail_bytes, PROT_READ) != 0) {
        munmap(start, region.total_bytes());
        return nullptr;
    }
#ifdef MADV_HUGEPAGE
    // Weights are written once and read for every token: large pages save most of the page faults of the
    // one and the address translation of the other. Small buffers would only be rounded up.
    if (region.data_bytes >= kHugeBufferBytes && g_large_pages_pay) {
        madvise(pages, region.page_bytes, MADV_HUGEPAGE);
    }
#endif
    return static_cast<char *>(start) + region.data_offset();
}

void free_guarded(ggml_backend_buffer_t buffer) {
    const guarded_region region(buffer->size);
    munmap(static_cast<char *>(buffer->context) - region.data_offset(), region.total_bytes());
}

} // namespace

ggml_backend_buffer_t guarded_buffer(ggml_backend_buffer_type_t type, size_t size) {
    void * data = map_guarded(guarded_region(size));
    if (data == nullptr) {
        GGML_LOG_ERROR("failed to allocate a buffer of %.2f MiB: %s\n", double(size) / 1024 / 1024, strerror(errno));
        return nullptr;
    }
    // ggml's own buffer over memory of others, but for its type and its end.
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(data, size);
    buffer->buft              = type;
    buffer->iface.free_buffer = free_guarded;
    return buffer;
}

size_t readable_bytes_behind(ggml_backend_buffer_t buffer) {
    return buffer->iface.free_buffer == free_guarded ? guarded_region(buffer->size).tail_bytes : 0;
}
