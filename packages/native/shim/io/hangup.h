#pragma once

// Whether the other side of a connection has gone.

#include <poll.h>

// Only Linux tells that the other side sends no more; elsewhere it shows when the connection is broken.
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

// Never waits.
inline bool has_hung_up(int fd) {
    pollfd state{fd, short(POLLRDHUP), 0};
    return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}
