/* SPDX-License-Identifier: Apache-2.0 */
/* Figures that sluice-bench has not: told as such, and never as numbers. */
#include "bench/rig.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static char *text;
static size_t len;
static FILE *real;

/* With glibc stdout is a variable. */
static void catch (void)
{
	real = stdout;
	stdout = open_memstream(&text, &len);
}

static const char *caught(void)
{
	fclose(stdout);
	stdout = real;
	return text;
}

Test(bench_figures, stolen_time_that_nobody_knows_is_no_number)
{
	catch ();
	rig_print_steal(-1);
	rig_print_steal(0.25);
	cr_assert_str_eq(caught(), "steal          not known\nsteal          0.25 s\n");
	free(text);
}

Test(bench_figures, no_latency_is_no_number)
{
	static struct histogram none;

	catch ();
	rig_print_latency(&none, false);
	rig_print_latency(&none, true);
	cr_assert_str_eq(caught(), "latency, us    -\n, \"latency_us\": null");
	free(text);
}

Test(bench_figures, what_was_spent_is_unknown_where_either_end_is)
{
	cr_assert_eq(rig_spent(-1, 3), -1);
	cr_assert_eq(rig_spent(3, -1), -1);
	cr_assert_eq(rig_spent(3, 2), -1);
	cr_assert_eq(rig_spent(1, 3), 2);
}
