/* Pages that the forks of a zygote have in common, and have in common again; see pages.py.
 *
 * begin() finds the memory that is meant, write_image() puts it into a memfd, in any fork, adopt()
 * maps that file privately in the place of this process's memory, and give_back() drops each page
 * that was written to and has the content of the file's page. No byte of memory changes by any of
 * these: only who else has the same page.
 *
 * They need that nobody writes meanwhile. Hence C, one thread, and all signals blocked; the thread's
 * own area, which the kernel writes to, is left out. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_RUNS 512
#define CHUNK 512             /* entries of /proc/self/pagemap at a time */
#define SMALL_GAP 4           /* pages that are not worth two runs */
#define PRESENT (1ULL << 63)  /* in RAM */
#define OF_FILE (1ULL << 61)  /* not a copy of our own */
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

static struct run {
	char *start;
	size_t size, offset;
} runs[MOST_RUNS];
static int count;
static char *image;
static size_t image_size, page_size;

static void block(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, before);
}

/* The parts of a region that are in RAM become runs. */
static int find_runs(int pagemap, char *start, char *end)
{
	uint64_t entries[CHUNK];
	struct run *run = NULL;

	while (start < end) {
		size_t wanted = (end - start) / page_size;
		if (wanted > CHUNK)
			wanted = CHUNK;
		off_t where = (uintptr_t)start / page_size * sizeof *entries;
		if (pread(pagemap, entries, wanted * sizeof *entries, where) !=
		    (ssize_t)(wanted * sizeof *entries))
			return -1;
		for (size_t i = 0; i < wanted; i++, start += page_size) {
			if (!(entries[i] & PRESENT))
				continue;
			if (!run || start > run->start + run->size + SMALL_GAP * page_size) {
				if (count == MOST_RUNS)
					return -1;
				run = &runs[count++];
				run->start = start;
			}
			run->size = start + page_size - run->start;
		}
	}
	return 0;
}

/* `regions`: `n` pairs of addresses, writable and private. The file for the image, or -1. */
int begin(const uintptr_t (*regions)[2], int n)
{
	char *thread = (char *)&errno;

	page_size = sysconf(_SC_PAGESIZE);
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int failed = pagemap < 0;
	for (int i = 0; i < n && !failed; i++) {
		char *start = (char *)regions[i][0], *end = (char *)regions[i][1];
		if (thread < start || thread >= end)
			failed = find_runs(pagemap, start, end);
	}
	close(pagemap);
	for (struct run *run = runs; run < runs + count; run++) {
		run->offset = image_size;
		image_size += run->size;
	}
	if (failed)
		return -1;
	int fd = memfd_create("zygote", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd < 0) /* before Linux 6.3 */
		fd = memfd_create("zygote", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd;
}

/* Of this process, which begin() was called in or before the fork; 0 or -1. */
int write_image(int fd)
{
	sigset_t before;
	int failed = 0;

	block(&before);
	for (struct run *run = runs; run < runs + count && !failed; run++) {
		for (size_t done = 0; done < run->size && !failed;) {
			ssize_t put = pwrite(fd, run->start + done, run->size - done, run->offset + done);
			failed = put <= 0;
			done += put;
		}
	}
	failed = failed || fcntl(fd, F_ADD_SEALS, SEALS);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return failed ? -1 : 0;
}

static void map(struct run *run, int fd)
{
	char *copy = mmap(NULL, run->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (copy != MAP_FAILED) {
		memcpy(copy, run->start, run->size);
		if (mmap(run->start, run->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
			 run->offset) != MAP_FAILED) {
			for (size_t i = 0; i < run->size; i += page_size)
				if (memcmp(run->start + i, copy + i, page_size))
					memcpy(run->start + i, copy + i, page_size);
			munmap(copy, run->size);
			return;
		}
		munmap(copy, run->size);
	}
	run->size = 0; /* all is as it was */
}

/* Bytes of the image that this process and its forks have from now on, or -1 if it is not whole. */
long adopt(int fd)
{
	sigset_t before;

	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS || lseek(fd, 0, SEEK_END) != (off_t)image_size)
		return -1;
	image = mmap(NULL, image_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (image == MAP_FAILED) {
		image = NULL;
		return -1;
	}
	block(&before);
	for (struct run *run = runs; run < runs + count; run++)
		map(run, fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return image_size;
}

/* The pages from..to are equal to those at `as`: let go of our copies. */
static size_t drop(char *from, char *to, const char *as)
{
	size_t size = to - from;

	if (!size || madvise(from, size, MADV_DONTNEED))
		return 0;
	/* Was it our mapping? Memory may have been unmapped, and others be there by now. */
	if (memcmp(from, as, size)) {
		memcpy(from, as, size);
		return 0;
	}
	madvise(from, size, MADV_DONTNEED); /* nor is it of use to have the file's pages mapped */
	return size;
}

/* Bytes of which there is a copy less, or -1. */
long give_back(void)
{
	uint64_t entries[CHUNK];
	sigset_t before;
	long dropped = 0;

	int pagemap = image ? open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) : -1;
	if (pagemap < 0)
		return -1;
	block(&before);
	for (struct run *run = runs; run < runs + count; run++) {
		for (size_t done = 0; done < run->size;) {
			size_t wanted = (run->size - done) / page_size;
			if (wanted > CHUNK)
				wanted = CHUNK;
			char *page = run->start + done;
			const char *as = image + run->offset + done;
			off_t where = (uintptr_t)page / page_size * sizeof *entries;
			ssize_t got = pread(pagemap, entries, wanted * sizeof *entries, where);
			if (got != (ssize_t)(wanted * sizeof *entries))
				break;
			size_t from = 0, i;
			for (i = 0; i < wanted; i++) {
				int ours = (entries[i] & (PRESENT | OF_FILE)) == PRESENT;
				if (ours && !memcmp(page + i * page_size, as + i * page_size, page_size))
					continue;
				dropped += drop(page + from * page_size, page + i * page_size,
						as + from * page_size);
				from = i + 1;
			}
			dropped += drop(page + from * page_size, page + i * page_size,
					as + from * page_size);
			done += wanted * page_size;
		}
	}
	madvise(image, image_size, MADV_DONTNEED); /* what has been looked at needs no page table */
	close(pagemap);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return dropped;
}
