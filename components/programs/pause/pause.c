/*
 * pause holds the namespaces of a pod: it is started first, does nothing, and ends last.
 * Where the pod shares one PID namespace it is process 1 and must reap orphans.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
	sigset_t signals;
	int i, sig;

	/* kubeadm's upgrade health check runs "pause -v" as a job and waits for its success. */
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-v")) {
			puts("pause " VERSION);
			return 0;
		}
	}

	/* Process 1 gets only the signals that it asks for; blocked ones wait for sigwait. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &signals, NULL) != 0)
		return 1;

	for (;;) {
		if (sigwait(&signals, &sig) != 0)
			return 1;
		if (sig != SIGCHLD)
			return 0;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}
