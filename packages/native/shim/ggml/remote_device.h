#pragma once

#include "ggml-backend.h"
#include "remote_dialect.h"
#include "remote_support.h"
#include "tensor_record.h"

#include <vector>

// The server of a device, as far as graphs must know it.
struct remote_server {
    int            connection = 0; // devices of one server share a connection
    remote_dialect dialect;
    remote_support support; // of this device
    // Activations go to and from it as bf16: tensors whose rows have one of these lengths, the widths of the models. Empty: none do.
    std::vector<int64_t> bf16_widths;
    int64_t top_row_max = 0; // it gives the largest values of rows that have so many at most; 0: of none
};

remote_server & server_of(ggml_backend_dev_t device);

// Fills a record from a tensor as a server may see it: with its numbers, and without the buffers of other servers, whose
// handles mean nothing there. Fields that only a graph knows are 0.
void record_from_tensor(const ggml_tensor * tensor, const remote_server & server, tensor_record & record);
