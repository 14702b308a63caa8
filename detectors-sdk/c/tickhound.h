// Write a Tickhound detector in C: include this in the one file of the detector, describe the detector in a `tickhound_detector`,
// and name it in `TICKHOUND_DETECTOR(...)`. README.md beside this file explains each part with an example.
//
// What holds: a detector imports nothing. States are passed along by the host's ids and visited in their order, so nothing here
// differs between two runs. FAIL("no price") ends a call, and the host reports the text with file and line.

#ifndef TICKHOUND_H
#define TICKHOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Failures. The module's memory contains, once: the 16 bytes of a mark, the length of the text (four bytes, little-endian, as
// WebAssembly is), and the text in UTF-8.

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

// Ends the call. The host starts another instance with the states of before, and goes on after the row.
#define FAIL(text) tickhound_fail(__FILE__, __LINE__, text)

// A detector with bindings of its own, as they were before this file had the rest, needs no more than FAIL.
#ifndef __BINDINGS_DETECTOR_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TICKHOUND_CONTRACT "0.2.0"

// The description of a detector ------------------------------------------------------------------------------------------------

// What a state belongs to: a symbol, a group of symbols that the user's configuration defines, or the market, which is one group
// of all symbols.
typedef enum { TICKHOUND_SYMBOL, TICKHOUND_GROUP, TICKHOUND_MARKET } tickhound_scope;

typedef enum { TICKHOUND_UP, TICKHOUND_DOWN, TICKHOUND_NONE } tickhound_direction;

typedef enum { TICKHOUND_FLAG, TICKHOUND_INTEGER, TICKHOUND_NUMBER, TICKHOUND_TEXT } tickhound_type;

// The bits of the column `flags`: (uint32_t)tickhound_column(row, FLAGS) & TICKHOUND_QUOTE_ONLY.
enum {
    TICKHOUND_TIME_ESTIMATED = 1,
    TICKHOUND_OUT_OF_ORDER = 2,
    TICKHOUND_VOLUME_REPAIRED = 4,
    TICKHOUND_QUOTE_ONLY = 8,
    TICKHOUND_SESSION_START = 16,
    TICKHOUND_PRE_OPEN = 32,
    TICKHOUND_OFF_SESSION = 64,
    TICKHOUND_OUTSIDE = 96,
};

// A parameter. The member of its type is its default.
typedef struct {
    const char *name;
    tickhound_type type;
    bool flag;
    int64_t integer;
    double number;
    const char *text;
    // Both are valid values. Without them every value is.
    const double *minimum, *maximum;
    // The valid texts, ended by NULL. Without them every text is.
    const char *const *choices;
    const char *unit;
    // One sentence for users.
    const char *doc;
} tickhound_param;

// The value of a limit in a `tickhound_param`: .minimum = TICKHOUND_LIMIT(0.01).
#define TICKHOUND_LIMIT(value) (&(const double){value})

typedef struct {
    const char *name;
    // Whether the host rejects the detector if there is no such column, or text of the reference data.
    bool required;
} tickhound_name;

// A column that the host computes once for all detectors that ask for it, from the rows of one symbol before the present row.
typedef struct {
    const char *name;
    // "highest", "lowest", "mean" or "ew-volatility".
    const char *function;
    // "price", or "high" and "low" of bars.
    const char *of;
    // "ticks" or "bars:60".
    const char *feed;
    // A number of rows, or the name of an integer parameter.
    const char *length;
} tickhound_computed;

// With conditions, only ticks for which one holds reach the detector. One of the two is the name of a column.
typedef struct {
    const char *above, *below;
} tickhound_wake;

typedef struct tickhound_row tickhound_row;
typedef struct tickhound_detection tickhound_detection;

// What a detector is. Lists are ended by an entry without a name; what is left out is 0, false or empty.
typedef struct {
    // Lower-case letters, digits, `_` and `-`.
    const char *name;
    const char *version;
    // One sentence for users.
    const char *description;
    tickhound_scope scope;
    // "ticks" for on_tick, "bars:60" for on_bar, "snapshots:60" for on_snapshot; instead of a number, the name of an integer
    // parameter may follow. Ended by NULL; without any, "ticks".
    const char *const *feeds;
    // tickhound_column() takes the position in this list. Computed columns follow.
    const tickhound_name *columns;
    const tickhound_computed *computed;
    const tickhound_wake *wakes;
    // tickhound_text() takes the position in this list.
    const tickhound_name *texts;
    const tickhound_param *params;
    // The bytes of a state, which are 0 at its first row, and saved as they are: no pointers. The second number is that of the
    // bytes that are known of each member of a group: tickhound_member().
    size_t state_size, member_size;
    // Increase it when older states can't be read any more.
    uint32_t state_version;
    // Whether a saved state stays meaningful when only parameters change.
    bool state_outlives_params;
    // Checks the parameters, and keeps them. Returns NULL, or a sentence for the author of the configuration.
    const char *(*configure)(void);
    // The event time that must pass before the first detection, in seconds.
    double (*warm_up_s)(void);
    // Process a row, and may change the state of its symbol or group. Return whether there is a detection, and fill it in then.
    bool (*on_tick)(void *state, const tickhound_row *row, tickhound_detection *found);
    bool (*on_bar)(void *state, const tickhound_row *row, tickhound_detection *found);
    bool (*on_snapshot)(void *state, const tickhound_row *row, tickhound_detection *found);
    // Called for each state when event time reaches a whole second. The row has neither a price nor columns.
    bool (*on_clock)(void *state, const tickhound_row *row, tickhound_detection *found);
} tickhound_detector;

// Rows -------------------------------------------------------------------------------------------------------------------------

// A row: a tick, a bar, a row of a snapshot, or a second of the clock.
struct tickhound_row {
    // The event time, ns since the Unix epoch, UTC; of a bar, its end.
    uint64_t time;
    // Finite and > 0; of a bar, the close; NAN at the clock.
    double price;
    // The name of the symbol; empty at the clock, if the state belongs to a group.
    const char *symbol;
    // The name of the group whose state is passed along; empty if the state belongs to the symbol.
    const char *group;
    // Of bars and snapshots: the length of the feed.
    uint32_t length_s;
    // Of snapshots: whether no row of this step follows, for this state.
    bool is_last;
    // The rest is for this file.
    uint32_t index, symbol_id, owner_id;
};

// The event time in seconds since the Unix epoch, exact to a microsecond.
static inline double tickhound_seconds(const tickhound_row *row) { return (double)row->time / 1e9; }

// The value of a column, given its position in the description; NAN if it is absent.
static double tickhound_column(const tickhound_row *row, size_t position);

// The text of the reference data at this position in the description; NULL if there is none for the symbol.
static const char *tickhound_text(const tickhound_row *row, size_t position);

// Parameters, by name, from `configure` on.
static bool tickhound_flag(const char *name);
static int64_t tickhound_integer(const char *name);
static double tickhound_number(const char *name);
static const char *tickhound_string(const char *name);

// Members: what a state knows of each symbol of its group, in the order of their names. It is saved with names.

typedef struct {
    const char *symbol;
    // `member_size` bytes, which are 0 when the member is new.
    void *value;
} tickhound_member_entry;

// The bytes of the row's symbol.
static void *tickhound_member(const tickhound_row *row);

// All members of the row's group so far, and their number. They are valid until the next call of tickhound_member().
static const tickhound_member_entry *tickhound_members(const tickhound_row *row, size_t *count);

// Gates: comparisons of a value with a limit that are shown when somebody asks why there is a detection, or none. Each returns
// its result, so that a detector has its conditions once.

static bool tickhound_holds(const char *name, double value, double limit, bool holds);
static inline bool tickhound_above(const char *name, double value, double limit) {
    return tickhound_holds(name, value, limit, value > limit);
}
static inline bool tickhound_at_least(const char *name, double value, double limit) {
    return tickhound_holds(name, value, limit, value >= limit);
}
static inline bool tickhound_below(const char *name, double value, double limit) {
    return tickhound_holds(name, value, limit, value < limit);
}
static inline bool tickhound_at_most(const char *name, double value, double limit) {
    return tickhound_holds(name, value, limit, value <= limit);
}

// Detections -------------------------------------------------------------------------------------------------------------------

// The most named numbers that the host accepts.
#define TICKHOUND_EVIDENCE_MAX 32

// The most members that a detection can have.
#define TICKHOUND_MEMBERS_MAX 65535

struct tickhound_detection {
    tickhound_direction direction;
    // How rare the event is, in 0 to 1.
    double confidence;
    // The member of the group that it is about; NULL: the symbol or group of the state.
    const char *about;
    // The rest is filled in by the functions below.
    size_t evidence_count;
    struct {
        const char *name;
        double value;
    } evidence[TICKHOUND_EVIDENCE_MAX];
    size_t member_count;
    uint32_t *members;
};

// Adds a number with which a person can check the detection. A number that isn't finite is left out. The name must stay.
static inline void tickhound_add(tickhound_detection *found, const char *name, double value) {
    if (!isfinite(value)) return;
    if (found->evidence_count == TICKHOUND_EVIDENCE_MAX) FAIL("a detection has too many named numbers");
    found->evidence[found->evidence_count].name = name;
    found->evidence[found->evidence_count++].value = value;
}

// Adds a symbol that makes up the event of a group.
static void tickhound_add_member(tickhound_detection *found, const char *symbol);

// The contract -----------------------------------------------------------------------------------------------------------------
//
// The functions that a module exports, and their arguments, as the component model lays them out in memory. What the host passes
// in is freed when a call ends. What is returned stays until the next call, so the host frees nothing.

typedef struct { const char *ptr; size_t len; } tickhound_abi_string;
typedef struct { void *ptr; size_t len; } tickhound_abi_list;
typedef struct { uint8_t tag; union { uint32_t fixed; tickhound_abi_string param; }; } tickhound_abi_length;
typedef struct { uint8_t tag; tickhound_abi_length length; } tickhound_abi_feed;
typedef struct { tickhound_abi_string name; bool required; } tickhound_abi_column;
typedef struct {
    tickhound_abi_string name;
    uint8_t function;
    tickhound_abi_string of;
    tickhound_abi_feed feed;
    tickhound_abi_length length;
} tickhound_abi_computed;
typedef struct { uint8_t tag; tickhound_abi_string column; } tickhound_abi_wake;
typedef struct {
    uint8_t tag;
    union { bool flag; int64_t integer; double number; tickhound_abi_string text; };
} tickhound_abi_value;
typedef struct { bool is_some; double value; } tickhound_abi_limit;
typedef struct {
    tickhound_abi_string name;
    tickhound_abi_value default_value;
    tickhound_abi_limit minimum, maximum;
    tickhound_abi_list choices;
    tickhound_abi_string unit, doc;
} tickhound_abi_param;
typedef struct {
    tickhound_abi_string name, version, description;
    uint8_t scope;
    tickhound_abi_list feeds, columns, computed, wakes, texts, params;
    uint32_t state_version;
    bool state_outlives_params, wants_clock;
} tickhound_abi_manifest;
typedef struct { tickhound_abi_string name; tickhound_abi_value value; } tickhound_abi_named_value;
typedef struct { bool is_some; tickhound_abi_string text; } tickhound_abi_option;
typedef struct { uint32_t id; tickhound_abi_string name; tickhound_abi_list texts; } tickhound_abi_symbol;
typedef struct { uint32_t id; tickhound_abi_string name; } tickhound_abi_group;
typedef struct { uint32_t owner; tickhound_abi_list state; } tickhound_abi_saved;
typedef struct { tickhound_abi_string name; double value, limit; bool holds; } tickhound_abi_gate;
typedef struct { uint32_t row, owner; tickhound_abi_list gates; } tickhound_abi_judgment;
typedef struct { uint8_t is_error; union { double warm_up_s; tickhound_abi_string error; }; } tickhound_abi_configured;
typedef struct { uint8_t is_error; tickhound_abi_string error; } tickhound_abi_restored;

_Static_assert(sizeof(void *) != 4 || sizeof(tickhound_abi_manifest) == 84, "the layout of a manifest");
_Static_assert(sizeof(void *) != 4 || sizeof(tickhound_abi_param) == 80, "the layout of a parameter");

// In `symbols`, a clock row.
#define TICKHOUND_CLOCK UINT32_MAX
// The bit of a row's feed that marks the last row of a snapshot.
#define TICKHOUND_LAST 0x80
// The maximum number of feeds, as in the host.
#define TICKHOUND_FEEDS_MAX 4

typedef struct { uint8_t *ptr; size_t len, room; } tickhound_bytes;

// A symbol or group, and its state after the first row.
typedef struct {
    char *name;
    // Of a symbol: by position, NULL for none.
    char **texts;
    bool is_group, has_state;
    void *state;
    // By name, and the same by the order in which ids are met.
    tickhound_member_entry *members;
    size_t member_count, member_room;
} tickhound_slot;

// Defined by TICKHOUND_DETECTOR.
static const tickhound_detector tickhound_this;

static struct {
    size_t columns, texts, feed_count;
    tickhound_abi_feed feeds[TICKHOUND_FEEDS_MAX];
    bool has_groups, has_feeds;
    // The arguments of `configure`.
    tickhound_abi_named_value *params;
    size_t param_count;
    // By id.
    tickhound_slot *slots;
    size_t slot_count;
    // The rows of the present call.
    uint32_t rows;
    const uint8_t *times, *prices, *values, *symbols, *owners, *kinds;
    bool is_probe;
    // What the present call returns.
    tickhound_bytes found, saved, judgments, gates;
    // What the host has passed in.
    void **passed;
    size_t passed_count, passed_room;
} tickhound;

static inline void *tickhound_allocate(void *old, size_t bytes) {
    void *made = realloc(old, bytes ? bytes : 1);
    if (!made) FAIL("out of memory");
    return made;
}

static inline char *tickhound_copy(tickhound_abi_string text) {
    char *copy = tickhound_allocate(NULL, text.len + 1);
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    return copy;
}

static inline void tickhound_put(tickhound_bytes *to, const void *data, size_t len) {
    if (to->room - to->len < len) {
        to->room = 2 * to->room + len + 64;
        to->ptr = tickhound_allocate(to->ptr, to->room);
    }
    memcpy(to->ptr + to->len, data, len);
    to->len += len;
}

static inline void tickhound_put_u32(tickhound_bytes *to, uint32_t value) { tickhound_put(to, &value, sizeof value); }

static inline uint32_t tickhound_u32(const uint8_t *array, size_t at) {
    uint32_t value;
    memcpy(&value, array + at * sizeof value, sizeof value);
    return value;
}

static inline double tickhound_f64(const uint8_t *array, size_t at) {
    double value;
    memcpy(&value, array + at * sizeof value, sizeof value);
    return value;
}

// A function that the module exports. It can't be static, since the linker exports none that is.
#define TICKHOUND_EXPORT(name) __attribute__((export_name(name)))

// Called at the end of each export.
static inline void tickhound_free_passed(void) {
    while (tickhound.passed_count) free(tickhound.passed[--tickhound.passed_count]);
}

TICKHOUND_EXPORT("cabi_realloc") void *tickhound_realloc(void *old, size_t old_size, size_t align,
                                                                                 size_t size) {
    (void)old_size;
    (void)align;
    void *made = tickhound_allocate(old, size);
    if (old) {
        for (size_t i = 0; i < tickhound.passed_count; i++)
            if (tickhound.passed[i] == old) tickhound.passed[i] = made;
        return made;
    }
    if (tickhound.passed_count == tickhound.passed_room) {
        tickhound.passed_room = 2 * tickhound.passed_room + 16;
        tickhound.passed = tickhound_allocate(tickhound.passed, tickhound.passed_room * sizeof *tickhound.passed);
    }
    tickhound.passed[tickhound.passed_count++] = made;
    return made;
}

static inline tickhound_slot *tickhound_slot_of(uint32_t id) {
    return id < tickhound.slot_count && tickhound.slots[id].name ? &tickhound.slots[id] : NULL;
}

// The id of the newest symbol of this name, which is the last one.
static inline uint32_t tickhound_id_of(const char *symbol) {
    for (size_t id = tickhound.slot_count; id-- > 0;) {
        const tickhound_slot *slot = &tickhound.slots[id];
        if (slot->name && !slot->is_group && strcmp(slot->name, symbol) == 0) return (uint32_t)id;
    }
    FAIL("a detection names a symbol that the host has not introduced");
}

// Description

static inline tickhound_abi_string tickhound_string_of(const char *text) {
    return (tickhound_abi_string){.ptr = text ? text : "", .len = text ? strlen(text) : 0};
}

static inline tickhound_abi_length tickhound_length_of(const char *text) {
    if (!text || !*text) FAIL("a feed or a computed column has no length");
    char *end;
    unsigned long number = strtoul(text, &end, 10);
    if (*end == 0) return (tickhound_abi_length){.tag = 0, .fixed = (uint32_t)number};
    return (tickhound_abi_length){.tag = 1, .param = tickhound_string_of(text)};
}

static inline tickhound_abi_feed tickhound_feed_of(const char *text) {
    if (strcmp(text, "ticks") == 0) return (tickhound_abi_feed){.tag = 0};
    if (strncmp(text, "bars:", 5) == 0) return (tickhound_abi_feed){.tag = 1, .length = tickhound_length_of(text + 5)};
    if (strncmp(text, "snapshots:", 10) == 0)
        return (tickhound_abi_feed){.tag = 2, .length = tickhound_length_of(text + 10)};
    FAIL("a feed is \"ticks\", \"bars:60\", \"snapshots:60\" or the like");
}

// Reads the description once, before anything else.
static inline void tickhound_read(void) {
    static const char *const ticks[] = {"ticks", NULL};
    if (tickhound.feed_count) return;
    const tickhound_detector *this = &tickhound_this;
    for (const char *const *feed = this->feeds ? this->feeds : ticks; *feed; feed++) {
        if (tickhound.feed_count == TICKHOUND_FEEDS_MAX) FAIL("a detector has at most 4 feeds");
        tickhound.feeds[tickhound.feed_count++] = tickhound_feed_of(*feed);
    }
    while (this->columns && this->columns[tickhound.columns].name) tickhound.columns++;
    for (size_t i = 0; this->computed && this->computed[i].name; i++) tickhound.columns++;
    while (this->texts && this->texts[tickhound.texts].name) tickhound.texts++;
    tickhound.has_groups = this->scope != TICKHOUND_SYMBOL;
    tickhound.has_feeds = tickhound.feed_count > 1 || tickhound.feeds[0].tag != 0;
}

static inline tickhound_abi_list tickhound_names_of(const tickhound_name *names) {
    size_t count = 0;
    while (names && names[count].name) count++;
    tickhound_abi_column *list = tickhound_allocate(NULL, count * sizeof *list);
    for (size_t i = 0; i < count; i++)
        list[i] = (tickhound_abi_column){.name = tickhound_string_of(names[i].name), .required = names[i].required};
    return (tickhound_abi_list){.ptr = list, .len = count};
}

static inline tickhound_abi_list tickhound_computed_of(const tickhound_computed *computed) {
    static const char *const functions[] = {"highest", "lowest", "mean", "ew-volatility"};
    size_t count = 0;
    while (computed && computed[count].name) count++;
    tickhound_abi_computed *list = tickhound_allocate(NULL, count * sizeof *list);
    for (size_t i = 0; i < count; i++) {
        uint8_t function = 0;
        while (function < 4 && strcmp(functions[function], computed[i].function) != 0) function++;
        if (function == 4) FAIL("a function is \"highest\", \"lowest\", \"mean\" or \"ew-volatility\"");
        list[i] = (tickhound_abi_computed){.name = tickhound_string_of(computed[i].name), .function = function,
                                           .of = tickhound_string_of(computed[i].of),
                                           .feed = tickhound_feed_of(computed[i].feed),
                                           .length = tickhound_length_of(computed[i].length)};
    }
    return (tickhound_abi_list){.ptr = list, .len = count};
}

static inline tickhound_abi_list tickhound_wakes_of(const tickhound_wake *wakes) {
    size_t count = 0;
    while (wakes && (wakes[count].above || wakes[count].below)) count++;
    tickhound_abi_wake *list = tickhound_allocate(NULL, count * sizeof *list);
    for (size_t i = 0; i < count; i++)
        list[i] = (tickhound_abi_wake){.tag = !wakes[i].above,
                                       .column = tickhound_string_of(wakes[i].above ? wakes[i].above : wakes[i].below)};
    return (tickhound_abi_list){.ptr = list, .len = count};
}

static inline tickhound_abi_value tickhound_value_of(const tickhound_param *param) {
    tickhound_abi_value value = {.tag = (uint8_t)param->type};
    switch (param->type) {
        case TICKHOUND_FLAG: value.flag = param->flag; break;
        case TICKHOUND_INTEGER: value.integer = param->integer; break;
        case TICKHOUND_NUMBER: value.number = param->number; break;
        case TICKHOUND_TEXT: value.text = tickhound_string_of(param->text); break;
    }
    return value;
}

static inline tickhound_abi_list tickhound_params_of(const tickhound_param *params) {
    size_t count = 0;
    while (params && params[count].name) count++;
    tickhound_abi_param *list = tickhound_allocate(NULL, count * sizeof *list);
    for (size_t i = 0; i < count; i++) {
        const tickhound_param *param = &params[i];
        size_t choices = 0;
        while (param->choices && param->choices[choices]) choices++;
        tickhound_abi_string *choice = tickhound_allocate(NULL, choices * sizeof *choice);
        for (size_t n = 0; n < choices; n++) choice[n] = tickhound_string_of(param->choices[n]);
        list[i] = (tickhound_abi_param){.name = tickhound_string_of(param->name), .default_value = tickhound_value_of(param),
                                        .choices = {.ptr = choice, .len = choices},
                                        .unit = tickhound_string_of(param->unit), .doc = tickhound_string_of(param->doc)};
        if (param->minimum) list[i].minimum = (tickhound_abi_limit){.is_some = true, .value = *param->minimum};
        if (param->maximum) list[i].maximum = (tickhound_abi_limit){.is_some = true, .value = *param->maximum};
    }
    return (tickhound_abi_list){.ptr = list, .len = count};
}

TICKHOUND_EXPORT("describe") tickhound_abi_manifest *tickhound_describe(void) {
    static tickhound_abi_manifest manifest;
    const tickhound_detector *this = &tickhound_this;
    tickhound_read();
    // What is listed is allocated at each call, of which there are few.
    manifest = (tickhound_abi_manifest){
        .name = tickhound_string_of(this->name),
        .version = tickhound_string_of(this->version),
        .description = tickhound_string_of(this->description),
        .scope = (uint8_t)this->scope,
        .feeds = {.ptr = tickhound.feeds, .len = tickhound.feed_count},
        .columns = tickhound_names_of(this->columns),
        .computed = tickhound_computed_of(this->computed),
        .wakes = tickhound_wakes_of(this->wakes),
        .texts = tickhound_names_of(this->texts),
        .params = tickhound_params_of(this->params),
        .state_version = this->state_version,
        .state_outlives_params = this->state_outlives_params,
        .wants_clock = this->on_clock != NULL,
    };
    return &manifest;
}

// Parameters

static inline const tickhound_abi_value *tickhound_param_of(const char *name, tickhound_type type) {
    for (size_t i = 0; i < tickhound.param_count; i++) {
        const tickhound_abi_named_value *param = &tickhound.params[i];
        bool is_it = param->name.len == strlen(name) && memcmp(param->name.ptr, name, param->name.len) == 0;
        if (is_it && param->value.tag == type) return &param->value;
    }
    FAIL("the description has no parameter of this name and type");
}

__attribute__((unused)) static bool tickhound_flag(const char *name) {
    return tickhound_param_of(name, TICKHOUND_FLAG)->flag;
}

__attribute__((unused)) static int64_t tickhound_integer(const char *name) {
    return tickhound_param_of(name, TICKHOUND_INTEGER)->integer;
}

__attribute__((unused)) static double tickhound_number(const char *name) {
    return tickhound_param_of(name, TICKHOUND_NUMBER)->number;
}

__attribute__((unused)) static const char *tickhound_string(const char *name) {
    return tickhound_param_of(name, TICKHOUND_TEXT)->text.ptr;
}

TICKHOUND_EXPORT("configure") tickhound_abi_configured *tickhound_configure(
    const tickhound_abi_named_value *params, size_t count) {
    static tickhound_abi_configured result;
    const tickhound_detector *this = &tickhound_this;
    tickhound_read();
    // They stay as long as the instance.
    tickhound.params = tickhound_allocate(NULL, count * sizeof *params);
    tickhound.param_count = count;
    for (size_t i = 0; i < count; i++) {
        tickhound_abi_named_value *param = &tickhound.params[i];
        *param = params[i];
        param->name.ptr = tickhound_copy(params[i].name);
        if (param->value.tag == TICKHOUND_TEXT) param->value.text.ptr = tickhound_copy(params[i].value.text);
    }
    for (size_t i = 0; i < tickhound.feed_count; i++) {
        tickhound_abi_length *length = &tickhound.feeds[i].length;
        if (length->tag == 1) *length = (tickhound_abi_length){.fixed = (uint32_t)tickhound_integer(length->param.ptr)};
    }
    const char *error = this->configure ? this->configure() : NULL;
    result = (tickhound_abi_configured){.is_error = error != NULL};
    if (error) result.error = tickhound_string_of(error);
    else result.warm_up_s = this->warm_up_s ? this->warm_up_s() : 0.0;
    tickhound_free_passed();
    return &result;
}

// States

static inline tickhound_slot *tickhound_new_slot(uint32_t id, tickhound_abi_string name) {
    if (id >= tickhound.slot_count) {
        size_t count = (size_t)id + 1 > 2 * tickhound.slot_count ? (size_t)id + 1 : 2 * tickhound.slot_count;
        tickhound.slots = tickhound_allocate(tickhound.slots, count * sizeof *tickhound.slots);
        memset(tickhound.slots + tickhound.slot_count, 0, (count - tickhound.slot_count) * sizeof *tickhound.slots);
        tickhound.slot_count = count;
    }
    tickhound.slots[id] = (tickhound_slot){.name = tickhound_copy(name)};
    return &tickhound.slots[id];
}

TICKHOUND_EXPORT("introduce") void tickhound_introduce(const tickhound_abi_symbol *symbols,
                                                                               size_t symbol_count,
                                                                               const tickhound_abi_group *groups,
                                                                               size_t group_count) {
    for (size_t i = 0; i < symbol_count; i++) {
        tickhound_slot *slot = tickhound_new_slot(symbols[i].id, symbols[i].name);
        const tickhound_abi_option *texts = symbols[i].texts.ptr;
        slot->texts = tickhound_allocate(NULL, symbols[i].texts.len * sizeof *slot->texts);
        for (size_t n = 0; n < symbols[i].texts.len; n++)
            slot->texts[n] = texts[n].is_some ? tickhound_copy(texts[n].text) : NULL;
    }
    for (size_t i = 0; i < group_count; i++) tickhound_new_slot(groups[i].id, groups[i].name)->is_group = true;
    tickhound_free_passed();
}

static inline void tickhound_start(tickhound_slot *slot) {
    slot->has_state = true;
    slot->state = tickhound_allocate(NULL, tickhound_this.state_size);
    memset(slot->state, 0, tickhound_this.state_size);
}

// The position of a member, or where it belongs.
static inline size_t tickhound_position(const tickhound_slot *slot, const char *symbol, bool *is_there) {
    size_t low = 0, high = slot->member_count;
    *is_there = false;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(slot->members[middle].symbol, symbol);
        if (order == 0) *is_there = true;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

// `symbol` has to stay as long as the instance.
static inline void *tickhound_member_of(tickhound_slot *slot, const char *symbol) {
    bool is_there;
    size_t at = tickhound_position(slot, symbol, &is_there);
    if (is_there) return slot->members[at].value;
    if (slot->member_count == slot->member_room) {
        slot->member_room = 2 * slot->member_room + 8;
        slot->members = tickhound_allocate(slot->members, slot->member_room * sizeof *slot->members);
    }
    memmove(slot->members + at + 1, slot->members + at, (slot->member_count - at) * sizeof *slot->members);
    void *value = tickhound_allocate(NULL, tickhound_this.member_size);
    memset(value, 0, tickhound_this.member_size);
    slot->members[at] = (tickhound_member_entry){.symbol = symbol, .value = value};
    slot->member_count++;
    return value;
}

__attribute__((unused)) static void *tickhound_member(const tickhound_row *row) {
    if (row->symbol_id == TICKHOUND_CLOCK) FAIL("a row of the clock has no symbol");
    return tickhound_member_of(&tickhound.slots[row->owner_id], row->symbol);
}

__attribute__((unused)) static const tickhound_member_entry *tickhound_members(const tickhound_row *row, size_t *count) {
    const tickhound_slot *slot = &tickhound.slots[row->owner_id];
    *count = slot->member_count;
    return slot->members;
}

static inline void tickhound_free_members(tickhound_slot *slot) {
    for (size_t i = 0; i < slot->member_count; i++) free(slot->members[i].value);
    slot->member_count = 0;
}

// A saved state: its bytes, and if there are members, of each: the length of the name, the name, a 0, and its bytes.
TICKHOUND_EXPORT("save") tickhound_abi_list *tickhound_save(const uint32_t *owners, size_t count) {
    static tickhound_abi_list result;
    static tickhound_abi_saved *states;
    const tickhound_detector *this = &tickhound_this;
    states = tickhound_allocate(states, count * sizeof *states);
    result = (tickhound_abi_list){.ptr = states};
    tickhound.saved.len = 0;
    for (size_t i = 0; i < count; i++) {
        const tickhound_slot *slot = tickhound_slot_of(owners[i]);
        if (!slot || !slot->has_state) continue;
        // The bytes may still move, so until the end there is the place where they begin.
        size_t begin = tickhound.saved.len;
        tickhound_put(&tickhound.saved, slot->state, this->state_size);
        for (size_t n = 0; n < slot->member_count; n++) {
            uint32_t length = (uint32_t)strlen(slot->members[n].symbol);
            tickhound_put_u32(&tickhound.saved, length);
            tickhound_put(&tickhound.saved, slot->members[n].symbol, length + 1);
            tickhound_put(&tickhound.saved, slot->members[n].value, this->member_size);
        }
        states[result.len++] = (tickhound_abi_saved){
            .owner = owners[i], .state = {.ptr = (void *)begin, .len = tickhound.saved.len - begin}};
    }
    for (size_t i = 0; i < result.len; i++) states[i].state.ptr = tickhound.saved.ptr + (size_t)states[i].state.ptr;
    tickhound_free_passed();
    return &result;
}

// The member that is saved at `*at`, and `*at` behind it; NULL if it can't be read.
static inline const char *tickhound_saved_member(const tickhound_abi_list *state, size_t *at, const void **value) {
    const uint8_t *bytes = state->ptr;
    size_t rest = state->len - *at, size = tickhound_this.member_size;
    if (rest < 4) return NULL;
    uint32_t length = tickhound_u32(bytes + *at, 0);
    if (!size || length > rest - 4 || rest - 4 - length < 1 + size) return NULL;
    const char *name = (const char *)bytes + *at + 4;
    if (strlen(name) != length) return NULL;
    *value = name + length + 1;
    *at += 4 + length + 1 + size;
    return name;
}

static inline const char *tickhound_rejection(uint32_t state_version, const tickhound_abi_saved *states, size_t count) {
    if (state_version != tickhound_this.state_version) return "saved under another state version";
    for (size_t i = 0; i < count; i++) {
        if (!tickhound_slot_of(states[i].owner)) return "a symbol or group was not introduced";
        size_t at = tickhound_this.state_size;
        if (states[i].state.len < at) return "a state can't be read: it is too short";
        const char *last = "", *name;
        const void *value;
        for (; at < states[i].state.len; last = name) {
            name = tickhound_saved_member(&states[i].state, &at, &value);
            if (!name || strcmp(last, name) >= 0) return "a state can't be read: its members are damaged";
        }
    }
    return NULL;
}

static inline void tickhound_restore_one(tickhound_slot *slot, const tickhound_abi_list *state) {
    if (!slot->has_state) tickhound_start(slot);
    memcpy(slot->state, state->ptr, tickhound_this.state_size);
    tickhound_free_members(slot);
    for (size_t at = tickhound_this.state_size; at < state->len;) {
        const void *value;
        const char *name = tickhound_saved_member(state, &at, &value);
        char *copy = tickhound_copy(tickhound_string_of(name));
        memcpy(tickhound_member_of(slot, copy), value, tickhound_this.member_size);
    }
}

TICKHOUND_EXPORT("restore") tickhound_abi_restored *tickhound_restore(
    uint32_t state_version, const tickhound_abi_saved *states, size_t count) {
    static tickhound_abi_restored result;
    // All or nothing: everything is checked before anything changes.
    const char *error = tickhound_rejection(state_version, states, count);
    for (size_t i = 0; !error && i < count; i++)
        tickhound_restore_one(&tickhound.slots[states[i].owner], &states[i].state);
    result = (tickhound_abi_restored){.is_error = error != NULL, .error = tickhound_string_of(error)};
    tickhound_free_passed();
    return &result;
}

// Rows

__attribute__((unused)) static double tickhound_column(const tickhound_row *row, size_t position) {
    if (position >= tickhound.columns) FAIL("the description has no column at this position");
    if (row->symbol_id == TICKHOUND_CLOCK) return NAN;
    return tickhound_f64(tickhound.values, position * tickhound.rows + row->index);
}

__attribute__((unused)) static const char *tickhound_text(const tickhound_row *row, size_t position) {
    if (position >= tickhound.texts) FAIL("the description has no text at this position");
    return row->symbol_id == TICKHOUND_CLOCK ? NULL : tickhound.slots[row->symbol_id].texts[position];
}

__attribute__((unused)) static bool tickhound_holds(const char *name, double value, double limit, bool holds) {
    if (tickhound.is_probe) {
        tickhound_abi_gate gate = {.name = tickhound_string_of(name), .value = value, .limit = limit, .holds = holds};
        tickhound_put(&tickhound.gates, &gate, sizeof gate);
    }
    return holds;
}

__attribute__((unused)) static void tickhound_add_member(tickhound_detection *found, const char *symbol) {
    if (found->member_count == TICKHOUND_MEMBERS_MAX) FAIL("a detection has too many members");
    // The number of numbers is a power of two, or there is no room.
    if ((found->member_count & (found->member_count - 1)) == 0) {
        size_t room = found->member_count ? 2 * found->member_count : 1;
        found->members = tickhound_allocate(found->members, room * sizeof *found->members);
    }
    found->members[found->member_count++] = tickhound_id_of(symbol);
}

static inline void tickhound_pack(const tickhound_row *row, const tickhound_detection *found) {
    tickhound_bytes *to = &tickhound.found;
    if (!tickhound.has_groups && (found->about || found->member_count))
        FAIL("only a detection of a group is about a member, or has members");
    tickhound_put_u32(to, row->index);
    tickhound_put_u32(to, row->owner_id);
    tickhound_put_u32(to, found->about ? tickhound_id_of(found->about) : row->owner_id);
    tickhound_put(to, &found->confidence, sizeof found->confidence);
    uint8_t direction = (uint8_t)found->direction, numbers = (uint8_t)found->evidence_count;
    uint16_t members = (uint16_t)found->member_count;
    tickhound_put(to, &direction, 1);
    tickhound_put(to, &members, sizeof members);
    tickhound_put(to, found->members, members * sizeof *found->members);
    tickhound_put(to, &numbers, 1);
    for (size_t i = 0; i < numbers; i++) {
        size_t length = strlen(found->evidence[i].name);
        if (length > UINT8_MAX) FAIL("the name of a number is too long");
        uint8_t short_length = (uint8_t)length;
        tickhound_put(to, &short_length, 1);
        tickhound_put(to, found->evidence[i].name, length);
        tickhound_put(to, &found->evidence[i].value, sizeof(double));
    }
}

typedef bool (*tickhound_callee)(void *, const tickhound_row *, tickhound_detection *);

static inline void tickhound_call(tickhound_callee callee, const tickhound_row *row) {
    static tickhound_detection found;
    found.direction = TICKHOUND_UP;
    found.confidence = 0.0;
    found.about = NULL;
    found.evidence_count = found.member_count = 0;
    size_t gates = tickhound.gates.len;
    if (!callee) FAIL("the description has a feed without its function");
    if (callee(tickhound.slots[row->owner_id].state, row, &found)) tickhound_pack(row, &found);
    if (tickhound.gates.len == gates) return;
    // The bytes of gates may still move, so until the end there is the place where they begin.
    tickhound_abi_judgment judgment = {
        .row = row->index,
        .owner = row->owner_id,
        .gates = {.ptr = (void *)gates, .len = (tickhound.gates.len - gates) / sizeof(tickhound_abi_gate)}};
    tickhound_put(&tickhound.judgments, &judgment, sizeof judgment);
}

// Calls `on_clock` for every state.
static inline void tickhound_strike(tickhound_row *row) {
    row->price = NAN;
    for (uint32_t id = 0; id < tickhound.slot_count; id++) {
        const tickhound_slot *slot = &tickhound.slots[id];
        if (!slot->has_state) continue;
        row->owner_id = id;
        row->symbol = slot->is_group ? "" : slot->name;
        row->group = slot->is_group ? slot->name : "";
        tickhound_call(tickhound_this.on_clock, row);
    }
}

static inline void tickhound_process_row(uint32_t index) {
    const tickhound_detector *this = &tickhound_this;
    tickhound_row row = {.index = index, .symbol_id = tickhound_u32(tickhound.symbols, index)};
    memcpy(&row.time, tickhound.times + index * sizeof row.time, sizeof row.time);
    if (row.symbol_id == TICKHOUND_CLOCK) {
        if (this->on_clock) tickhound_strike(&row);
        return;
    }
    row.owner_id = tickhound_u32(tickhound.owners, index);
    const tickhound_slot *symbol = tickhound_slot_of(row.symbol_id);
    tickhound_slot *owner = tickhound_slot_of(row.owner_id);
    if (!symbol || !owner) FAIL("the host sent a row of a symbol or group before introducing it");
    if (!owner->has_state) tickhound_start(owner);
    row.price = tickhound_f64(tickhound.prices, index);
    row.symbol = symbol->name;
    row.group = tickhound.has_groups ? owner->name : "";
    uint8_t kind = tickhound.has_feeds ? tickhound.kinds[index] : 0;
    if ((kind & ~TICKHOUND_LAST) >= (int)tickhound.feed_count) FAIL("the host sent a row of an unknown feed");
    const tickhound_abi_feed *feed = &tickhound.feeds[kind & ~TICKHOUND_LAST];
    row.length_s = feed->length.fixed;
    row.is_last = kind & TICKHOUND_LAST;
    tickhound_call(feed->tag == 0 ? this->on_tick : feed->tag == 1 ? this->on_bar : this->on_snapshot, &row);
}

static inline const uint8_t *tickhound_take(const uint8_t **rest, size_t bytes) {
    const uint8_t *taken = *rest;
    *rest += bytes;
    return taken;
}

static inline void tickhound_process(uint32_t rows, const uint8_t *values, size_t len, bool is_probe) {
    const uint8_t *rest = values;
    size_t each = 8 * (2 + tickhound.columns) + 4 + (tickhound.has_groups ? 4 : 0) + (tickhound.has_feeds ? 1 : 0);
    if (len != rows * each) FAIL("the host sent another number of bytes than its rows have");
    tickhound.rows = rows;
    tickhound.times = tickhound_take(&rest, 8 * rows);
    tickhound.prices = tickhound_take(&rest, 8 * rows);
    tickhound.values = tickhound_take(&rest, 8 * rows * tickhound.columns);
    tickhound.symbols = tickhound_take(&rest, 4 * rows);
    tickhound.owners = tickhound.has_groups ? tickhound_take(&rest, 4 * rows) : tickhound.symbols;
    tickhound.kinds = rest;
    tickhound.is_probe = is_probe;
    tickhound.found.len = tickhound.gates.len = tickhound.judgments.len = 0;
    for (uint32_t row = 0; row < rows; row++) tickhound_process_row(row);
    tickhound_free_passed();
}

TICKHOUND_EXPORT("detect") tickhound_abi_list *tickhound_detect(uint32_t rows, const uint8_t *values,
                                                                                        size_t len) {
    static tickhound_abi_list result;
    tickhound_process(rows, values, len, false);
    result = (tickhound_abi_list){.ptr = tickhound.found.ptr, .len = tickhound.found.len};
    return &result;
}

TICKHOUND_EXPORT("probe") tickhound_abi_list *tickhound_probe(uint32_t rows, const uint8_t *values,
                                                                                      size_t len) {
    static tickhound_abi_list result;
    tickhound_process(rows, values, len, true);
    tickhound_abi_judgment *judgments = (tickhound_abi_judgment *)tickhound.judgments.ptr;
    size_t count = tickhound.judgments.len / sizeof *judgments;
    for (size_t i = 0; i < count; i++) judgments[i].gates.ptr = tickhound.gates.ptr + (size_t)judgments[i].gates.ptr;
    result = (tickhound_abi_list){.ptr = judgments, .len = count};
    return &result;
}

// The version of the contract, which the host reads before it compiles the module.
#ifdef __wasm__
__asm__(".section \".custom_section.tickhound:contract\",\"\",@\n.ascii \"" TICKHOUND_CONTRACT "\"\n");
#endif

// Makes the file a detector. Call it once, with what the detector is: TICKHOUND_DETECTOR(.name = "jump", ...).
#define TICKHOUND_DETECTOR(...) static const tickhound_detector tickhound_this = {__VA_ARGS__};

#endif
#endif
