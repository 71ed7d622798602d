/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers on the command line of sluice-bench. */
#include "bench/rig.h"

#include <criterion/criterion.h>
#include <inttypes.h>

static const struct {
	const char *text;
	uint64_t thousand, value;
} good[] = {
	{ "7", 1024, 7 },	 { "2k", 1000, 2000 },	  { "2K", 1024, 2048 },
	{ "3M", 1000, 3000000 }, { "3m", 1024, 3 << 20 }, { "1G", 1000, 1000000000 },
	{ "1g", 1024, 1 << 30 },
};

Test(bench_options, sizes_are_counted_by_1024_and_rates_by_1000)
{
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t v = rig_number(good[i].text, "--x", good[i].thousand, 1, 1 << 30);

		cr_assert_eq(v, good[i].value, "%s: %" PRIu64, good[i].text, v);
	}
}

#define REFUSED(name, text, thousand)                             \
	Test(bench_options, name, .exit_code = 2)                 \
	{                                                         \
		rig_number(text, "--x", thousand, 1, 1000000000); \
	}

REFUSED(no_number, "K", 1000)
REFUSED(no_unit, "1T", 1000)
REFUSED(two_units, "1KK", 1000)
REFUSED(less_than_nothing, "-1", 1000)
REFUSED(too_many, "1000000001", 1000)
REFUSED(too_many_with_a_unit, "1G", 1024)
REFUSED(so_many_that_they_wrap, "18446744073709551615G", 1024)
