#pragma once

#include "ggml-backend.h"
#include "ggml-impl.h"

#include <cstdint>
#include <vector>

// Memory that tensors of a graph lie in, and the nodes that write it.

// Of one buffer: on some devices, as Vulkan's, the addresses of each begin anew.
struct span {
    ggml_backend_buffer_t buffer = nullptr;
    uintptr_t             start  = 0;
    uintptr_t             end    = 0;

    bool overlaps(const span & other) const { return buffer == other.buffer && start < other.end && other.start < end; }
    bool contains(const span & other) const { return buffer == other.buffer && start <= other.start && other.end <= end; }
};

span memory_of(const ggml_tensor & tensor);

// Whether a kernel of the node runs.
bool runs(const ggml_tensor & node);

// Whether `part` is elements of the result of a node, both I32. That it is a view of it matters where a backend leaves out
// a result that nobody seems to read.
bool is_part_of_indices(const ggml_tensor & part, const ggml_tensor & node);

constexpr int kNobody = -1;
constexpr int kUnknown = -2;

// Who wrote memory last.
class writes {
public:
    explicit writes(const ggml_cgraph & graph);

    // The last of the nodes [from, until) that writes any of the memory; kNobody; kUnknown when the search got too long,
    // as only graphs do that were made for it.
    int last(const span & memory, int from, int until);

private:
    struct written {
        span result;
        bool everything;
    };

    std::vector<written> nodes;
    int64_t              steps_left;
};
