// Devices over which ggml's meta device splits each tensor (ggml-backend-meta.cpp, v0.5.0): their partial sums are added up by one
// call for all of them.

#include "remote_group.h"
#include "api.h"
#include "remote_callbacks.h"
#include "remote_device.h"

#include <cstring>
#include <vector>

namespace {

struct remote_group {
    int                              number;
    std::vector<ggml_backend_dev_t>  devices;
};

// Made with every context, also one that only measures.
void * group_open(ggml_backend_t * backends, size_t count) {
    if (count > size_t(REMOTE_GROUP_MAX)) {
        return nullptr;
    }
    auto * group = new remote_group{-1, {}};
    for (size_t i = 0; i < count; i++) {
        g_exchange.members[i] = remote_index_of(backends[i]);
        group->devices.push_back(ggml_backend_get_device(backends[i]));
        if (g_exchange.members[i] < 0) {
            delete group;
            return nullptr;
        }
    }
    group->number = g_remote.group_open(int(count));
    if (group->number >= 0) {
        return group;
    }
    delete group;
    return nullptr;
}

void group_free(void * context) {
    auto * group = static_cast<remote_group *>(context);
    g_remote.group_close(group->number);
    delete group;
}

// False: ggml does it itself, by copies and ADD graphs.
bool all_reduce(void * context, ggml_tensor ** tensors) {
    auto * group = static_cast<remote_group *>(context);
    const int64_t element_count = ggml_nelements(tensors[0]);
    int counting = 0;
    for (size_t i = 0; i < group->devices.size(); i++) {
        if (tensors[i]->type != GGML_TYPE_F32 || !ggml_is_contiguous(tensors[i]) || ggml_nelements(tensors[i]) != element_count) {
            return false;
        }
        // A device whose slice is empty computed nothing.
        counting |= (tensors[i]->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 ? 1 << i : 0;
    }
    if (element_count == 0) {
        return true;
    }
    for (size_t i = 0; i < group->devices.size(); i++) {
        record_from_tensor(tensors[i], server_of(group->devices[i]), g_exchange.parts[i]);
    }
    g_remote.all_reduce(group->number, double(element_count), counting);
    return true;
}

} // namespace

void * remote_group_proc(ggml_backend_reg_t, const char * name) {
    if (strcmp(name, "ggml_backend_comm_init") == 0) {
        return reinterpret_cast<void *>(static_cast<ggml_backend_comm_init_t>(group_open));
    }
    if (strcmp(name, "ggml_backend_comm_free") == 0) {
        return reinterpret_cast<void *>(static_cast<ggml_backend_comm_free_t>(group_free));
    }
    if (strcmp(name, "ggml_backend_comm_allreduce_tensor") == 0) {
        return reinterpret_cast<void *>(static_cast<ggml_backend_comm_allreduce_tensor_t>(all_reduce));
    }
    return nullptr;
}
