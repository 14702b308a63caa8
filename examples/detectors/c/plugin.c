// Tells when one tick moves the price by at least `move_pct` percent.
//
// What the host passes in is ours to free; what we return is freed by the bindings, so all of it, even a constant
// text, is allocated.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/detector.h"
#include "tickhound.h"

// Stands in `symbols` for a clock row: event time has reached a whole second. We don't need it.
#define CLOCK UINT32_MAX

// A state is a byte 1 and the last price, little-endian as WebAssembly is.
#define STATE_VERSION 1
#define STATE_BYTES (1 + sizeof(double))

struct slot {
    bool known;
    bool has_price;
    double price;
};

static double move_pct;
// By symbol id.
static struct slot *slots;
static size_t slot_count;

static void *allocate(void *old, size_t bytes) {
    void *new = realloc(old, bytes);
    if (!new) FAIL("out of memory");
    return new;
}

static struct slot *slot_of(uint32_t symbol) {
    return symbol < slot_count && slots[symbol].known ? &slots[symbol] : NULL;
}

void exports_detector_describe(detector_manifest_t *manifest) {
    tickhound_detector_types_param_t *param = allocate(NULL, sizeof *param);
    *param = (tickhound_detector_types_param_t){
        .default_ = {.tag = TICKHOUND_DETECTOR_TYPES_VALUE_NUMBER, .val.number = 0.5},
        .minimum = {.is_some = true, .val = 0.01},
        .maximum = {.is_some = true, .val = 50.0},
    };
    detector_string_dup(&param->name, "move_pct");
    detector_string_dup(&param->unit, "%");
    detector_string_dup(&param->doc, "Smallest move that counts.");

    *manifest = (detector_manifest_t){.params = {.ptr = param, .len = 1}, .state_version = STATE_VERSION};
    detector_string_dup(&manifest->name, "jump");
    detector_string_dup(&manifest->version, "0.1.0");
    detector_string_dup(&manifest->description, "Tells when one tick moves the price by a lot.");
}

bool exports_detector_configure(detector_list_tuple2_string_value_t *params, detector_readiness_t *ready,
                                detector_string_t *error) {
    (void)error;
    // The host has checked names, types and ranges; there is just the one.
    move_pct = params->ptr[0].f1.val.number;
    ready->warm_up_seconds = 0.0;
    detector_list_tuple2_string_value_free(params);
    return true;
}

void exports_detector_introduce(detector_list_symbol_t *symbols) {
    for (size_t i = 0; i < symbols->len; i++) {
        size_t id = symbols->ptr[i].id;
        if (id >= slot_count) {
            size_t count = id + 1 > 2 * slot_count ? id + 1 : 2 * slot_count;
            slots = allocate(slots, count * sizeof *slots);
            memset(slots + slot_count, 0, (count - slot_count) * sizeof *slots);
            slot_count = count;
        }
        slots[id].known = true;
    }
    detector_list_symbol_free(symbols);
}

static detector_detection_t detection(uint32_t row, uint32_t symbol, double moved) {
    detector_tuple2_string_f64_t *evidence = allocate(NULL, sizeof *evidence);
    detector_string_dup(&evidence->f0, "move_pct");
    evidence->f1 = moved;
    return (detector_detection_t){
        .row = row,
        .symbol = symbol,
        .confidence = 1.0 - move_pct / fabs(moved),
        .direction = moved > 0 ? TICKHOUND_DETECTOR_TYPES_DIRECTION_UP : TICKHOUND_DETECTOR_TYPES_DIRECTION_DOWN,
        .evidence = {.ptr = evidence, .len = 1},
    };
}

void exports_detector_detect(detector_batch_t *ticks, detector_list_detection_t *found) {
    size_t room = 0;
    *found = (detector_list_detection_t){0};
    for (size_t row = 0; row < ticks->symbols.len; row++) {
        uint32_t symbol = ticks->symbols.ptr[row];
        if (symbol == CLOCK) continue;
        struct slot *slot = slot_of(symbol);
        if (!slot) FAIL("a symbol was not introduced");
        double price = ticks->prices.ptr[row];
        double moved = (price / slot->price - 1.0) * 100.0;
        if (slot->has_price && fabs(moved) >= move_pct) {
            if (found->len == room) {
                room = room ? 2 * room : 8;
                found->ptr = allocate(found->ptr, room * sizeof *found->ptr);
            }
            found->ptr[found->len++] = detection((uint32_t)row, symbol, moved);
        }
        slot->has_price = true;
        slot->price = price;
    }
    detector_batch_free(ticks);
}

void exports_detector_save(detector_list_u32_t *symbols, detector_list_symbol_state_t *saved) {
    saved->ptr = allocate(NULL, (symbols->len + 1) * sizeof *saved->ptr);
    saved->len = 0;
    for (size_t i = 0; i < symbols->len; i++) {
        struct slot *slot = slot_of(symbols->ptr[i]);
        if (!slot || !slot->has_price) continue;
        uint8_t *state = allocate(NULL, STATE_BYTES);
        state[0] = 1;
        memcpy(state + 1, &slot->price, sizeof slot->price);
        saved->ptr[saved->len++] =
            (detector_symbol_state_t){.symbol = symbols->ptr[i], .state = {.ptr = state, .len = STATE_BYTES}};
    }
    detector_list_u32_free(symbols);
}

static const char *refusal(uint32_t state_version, const detector_list_symbol_state_t *states) {
    if (state_version != STATE_VERSION) return "saved under another state version";
    for (size_t i = 0; i < states->len; i++) {
        const detector_list_u8_t *state = &states->ptr[i].state;
        if (!slot_of(states->ptr[i].symbol)) return "a symbol was not introduced";
        if (state->len != STATE_BYTES || state->ptr[0] != 1) return "a state can't be read";
    }
    return NULL;
}

bool exports_detector_restore(uint32_t state_version, detector_list_symbol_state_t *states, detector_string_t *error) {
    // All or nothing: look first.
    const char *why = refusal(state_version, states);
    for (size_t i = 0; !why && i < states->len; i++) {
        struct slot *slot = slot_of(states->ptr[i].symbol);
        slot->has_price = true;
        memcpy(&slot->price, states->ptr[i].state.ptr + 1, sizeof slot->price);
    }
    if (why) detector_string_dup(error, why);
    detector_list_symbol_state_free(states);
    return !why;
}

// The bindings ask for an object file with the contract in it. `tickhound build` adds the contract itself.
void __component_type_object_force_link_detector(void) {}
