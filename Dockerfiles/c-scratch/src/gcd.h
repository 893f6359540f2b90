#ifndef GCD_H
#define GCD_H

unsigned long gcd(unsigned long a, unsigned long b);

#endif
