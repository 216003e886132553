/*
 * pidfd_open(2) for a daemon under valgrind 3.19, which does not know the call: a descriptor that is
 * never readable. The daemon then learns of a client's end by its socket alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

long syscall(long number, ...)
{
	long argument[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		argument[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_pidfd_open)
		return eventfd(0, EFD_CLOEXEC);
	long (*libc)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	return libc(number, argument[0], argument[1], argument[2], argument[3], argument[4],
		    argument[5]);
}
