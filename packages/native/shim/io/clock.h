#pragma once

#include <ctime>

inline double clock_ms(clockid_t clock) {
    timespec ts;
    clock_gettime(clock, &ts);
    return double(ts.tv_sec) * 1e3 + double(ts.tv_nsec) / 1e6;
}

inline double now_ms() {
    return clock_ms(CLOCK_MONOTONIC);
}
