#pragma once

#include "ggml-backend.h"
#include "tensor_record.h"

#include <cstdint>

// Devices that partial sums can be on: GGML_BACKEND_META_MAX_DEVICES (ggml-backend.h).
constexpr int REMOTE_GROUP_MAX = GGML_BACKEND_META_MAX_DEVICES;

// Everything a callback needs beyond its arguments travels through one shared block, whose address
// TypeScript knows: a callback argument costs more than a read from a typed array.
struct remote_exchange {
    tensor_record tensor;     // the tensor of the operation
    tensor_record other;      // the second tensor of a copy
    tensor_record sources[GGML_MAX_SRC]; // get_alloc_size: the tensor's sources
    uint64_t      remote_ptr; // alloc_buffer: the server's handle
    uint64_t      base;       // alloc_buffer: address of the buffer in the server's address space
    uint64_t      size;       // alloc_buffer, get_alloc_size: bytes
    uint64_t      free;       // get_memory
    uint64_t      total;      // get_memory
    tensor_record parts[REMOTE_GROUP_MAX];   // all_reduce: the partial sum of each device of the group
    int32_t       members[REMOTE_GROUP_MAX]; // group_open: the indexes of its devices
};

struct remote_callbacks {
    int  (*alloc_buffer)(int device, double size);
    void (*free_buffer)(int device);                       // exchange->remote_ptr
    void (*clear_buffer)(int device, int value);           // exchange->remote_ptr
    void (*init_tensor)(int device);
    void (*memset_tensor)(int device, int value, double offset, double size);
    // One run of bytes of exchange->tensor, whose data are rows of `row` bytes, `stride` from one to the next.
    void (*set_tensor)(int device, const void * data, double offset, double size, int is_weight, double row, double stride);
    double (*get_tensor)(int device, void * data, double offset, double size, int is_async); // the read's ticket
    int  (*copy_tensor)(int device, int source_device);
    int  (*get_alloc_size)(int device);
    int  (*get_memory)(int device);
    int  (*graph_compute)(int device, const void * graph, double uid_low, double uid_high);
    void (*synchronize)(int device, double ticket);
    void (*ask_support)(int device); // the questions that gathered; answered by gs_remote_support_answer
    int  (*relay)(int device, int source_device, double size, int is_bf16); // exchange->tensor to exchange->other; 0: cannot
    void (*set_bf16)(int device, const void * data, double size); // all of exchange->tensor, which is F32; `size` bytes of bf16
    void (*get_bf16)(int device, void * data, double size);
    int  (*group_open)(int count); // of exchange->members: a number for it; -1: ggml adds up its partial sums
    void (*group_close)(int group);
    void (*all_reduce)(int group, double element_count, int counting); // exchange->parts; bit i: part i counts, else it is zero
    double (*get_top)(int device, void * data, double offset, double size, int count, double row_count); // as get_tensor, of rows' largest values
};

extern remote_callbacks g_remote;
extern remote_exchange  g_exchange;

// The number that callbacks know the device of a backend by; -1: it is none of ours.
int remote_index_of(ggml_backend_t backend);
