// How a detector in C fails: FAIL("no price") ends the call, and the host reports the text with file and line.
//
// A detector imports nothing, so it can't log. The module's memory contains, once: the 16 bytes of a mark, the length of the
// text (four bytes, little-endian, as WebAssembly is), and the text in UTF-8. Include this in one file of the detector.

#ifndef TICKHOUND_H
#define TICKHOUND_H

#include <stdint.h>

// As much as the host reads.
#define TICKHOUND_TEXT_MAX 1024

// The only reader is the host, so the compiler would remove it.
__attribute__((used)) static volatile struct {
    char mark[16];
    uint32_t length;
    char text[TICKHOUND_TEXT_MAX];
} tickhound_report = {.mark = "TICKHOUND-PANIC"};

static inline void tickhound_report_add(const char *text) {
    while (*text && tickhound_report.length < TICKHOUND_TEXT_MAX) tickhound_report.text[tickhound_report.length++] = *text++;
}

_Noreturn static inline void tickhound_fail(const char *file, int line, const char *text) {
    char digits[12];
    int at = sizeof digits - 1;
    digits[at] = 0;
    for (; line && at; line /= 10) digits[--at] = (char)('0' + line % 10);
    tickhound_report.length = 0;
    tickhound_report_add(file);
    tickhound_report_add(":");
    tickhound_report_add(digits + at);
    tickhound_report_add(": ");
    tickhound_report_add(text);
    __builtin_trap();
}

// Ends the call. The host starts another instance with the states of before, and goes on after the tick.
#define FAIL(text) tickhound_fail(__FILE__, __LINE__, text)

#endif
