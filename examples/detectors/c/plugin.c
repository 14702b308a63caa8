// Tells when one tick moves the price by at least `move_pct` percent.

#include "tickhound.h"

// All that is known about one symbol. It is 0 at the symbol's first tick, and saved as it is.
struct state {
    double price;
};

static double move_pct;

static const char *configure(void) {
    move_pct = tickhound_number("move_pct");
    return NULL;
}

static bool on_tick(void *saved, const tickhound_row *tick, tickhound_detection *found) {
    struct state *state = saved;
    double last = state->price;
    state->price = tick->price;
    if (last == 0.0) return false;
    double moved = (tick->price / last - 1.0) * 100.0;
    if (!tickhound_at_least("move", fabs(moved), move_pct)) return false;
    found->direction = moved > 0 ? TICKHOUND_UP : TICKHOUND_DOWN;
    found->confidence = 1.0 - move_pct / fabs(moved);
    tickhound_add(found, "move_pct", moved);
    return true;
}

static const tickhound_param params[] = {
    {.name = "move_pct", .type = TICKHOUND_NUMBER, .number = 0.5, .minimum = TICKHOUND_LIMIT(0.01),
     .maximum = TICKHOUND_LIMIT(50.0), .unit = "%", .doc = "Smallest move that counts."},
    {0},
};

TICKHOUND_DETECTOR(
    .name = "jump",
    .version = "0.1.0",
    .description = "Tells when one tick moves the price by a lot.",
    .params = params,
    .state_size = sizeof(struct state),
    .state_version = 1,
    .configure = configure,
    .on_tick = on_tick
)
