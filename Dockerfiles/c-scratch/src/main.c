#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "gcd.h"

int main(int argc, char **argv)
{
	unsigned long result = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: gcd NUMBER...\n");
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		char *end;

		errno = 0;
		unsigned long number = strtoul(argv[i], &end, 10);
		if (errno != 0 || end == argv[i] || *end != '\0') {
			fprintf(stderr, "gcd: not a number: %s\n", argv[i]);
			return 1;
		}
		result = gcd(result, number);
	}
	printf("%lu\n", result);
	return 0;
}
