#pragma once

#include <atomic>
#include <cstdint>

// Ids of requests that are to stop, each at index id % kCancelSlots: written by the host, which has fewer requests
// outstanding than there are places. 0 is no id.
constexpr uint32_t kCancelSlots = 1024;
static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free, "another process writes them");

// Whether what runs must stop. ggml's and libllama's callbacks get the address of one (io_abort_flag).
struct abort_flag {
    std::atomic<int>              raised{0};           // whatever runs: a client is gone, a connection lost
    std::atomic<uint32_t>         running{0};          // id of the request under way, 0 none
    const std::atomic<uint32_t> * cancelled = nullptr; // kCancelSlots ids; null: there is no host
};

inline bool is_cancelled(const abort_flag & flag, uint32_t id) {
    return flag.cancelled != nullptr && id != 0 && flag.cancelled[id % kCancelSlots].load(std::memory_order_relaxed) == id;
}

// For ggml_abort_callback.
inline bool abort_requested(void * address) {
    const auto & flag = *static_cast<const abort_flag *>(address);
    return flag.raised.load(std::memory_order_relaxed) != 0 ||
           is_cancelled(flag, flag.running.load(std::memory_order_relaxed));
}
