// The functions of casa/c/casa.h, compiled: one of these in a program or a shared library.
#define CASA_C_IMPLEMENTATION
#include "casa/c/casa.h"
