package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// passphraseVariable is the environment variable that holds the passphrase of private keys.
const passphraseVariable = "QUORATE_SSH_PASSPHRASE"

// secret reads a secret from the environment or asks for it. It unsets the variable, so that child processes do not inherit it.
func (a *app) secret(variable, question string) (string, error) {
	if s, ok := os.LookupEnv(variable); ok {
		return s, os.Unsetenv(variable)
	}
	s, err := a.ask(question)
	if err != nil {
		return "", fmt.Errorf("%w; set %s instead", err, variable)
	}
	return s, nil
}

// askTerminal asks on the terminal with echo turned off, even if stdin and stderr are redirected.
func askTerminal(question string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("there is no terminal to prompt on")
	}
	defer tty.Close()
	fmt.Fprint(tty, question)
	answer, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return string(answer), err
}

// askTerminalAloud is askTerminal with echo turned on.
func askTerminalAloud(question string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("there is no terminal to prompt on")
	}
	defer tty.Close()
	fmt.Fprint(tty, question)
	answer, err := bufio.NewReader(tty).ReadString('\n')
	return strings.TrimSpace(answer), err
}

// secretsAnnotation marks commands that send secrets to hosts.
const secretsAnnotation = "sends-secrets"

// sendsSecrets marks a command that sends secrets to hosts: it connects only to hosts whose keys are known or confirmed.
func sendsSecrets(cmd *cobra.Command) *cobra.Command {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[secretsAnnotation] = "yes"
	return cmd
}

// confirmKeys asks whether new keys are those of the hosts.
func (a *app) confirmKeys(keys []host.NewKey) (bool, error) {
	question := "The SSH host keys of these hosts are not known yet, and secrets will be sent to these hosts:\n\n"
	for _, k := range keys {
		question += fmt.Sprintf("  %s (%s)  %s %s\n", k.Host, k.Address, k.Type, k.Fingerprint)
	}
	question += "\nCompare each key with the output of `" + keys[0].Show() + "` on the host, for example on its console.\n" +
		"Do all of them match? (yes/no) "
	answer, err := a.askAloud(question)
	return strings.EqualFold(answer, "yes"), err
}

// prepareAccess collects the credentials that every command uses to log in to hosts.
func (a *app) prepareAccess(cmd *cobra.Command) error {
	a.access = &host.Access{}
	phrase, known := os.LookupEnv(passphraseVariable)
	if err := os.Unsetenv(passphraseVariable); err != nil {
		return err
	}
	a.access.Passphrase = func(keyFile string) (string, error) {
		if known {
			return phrase, nil
		}
		answer, err := a.ask("Passphrase for " + keyFile + ": ")
		if err != nil {
			return "", fmt.Errorf("%w; add the key to an agent with ssh-add, or set %s", err, passphraseVariable)
		}
		return answer, nil
	}
	a.access.StrictHostKeys, a.access.AcceptNewHostKeys = a.strictKeys, a.acceptNewKeys
	if a.strictKeys && a.acceptNewKeys {
		return usageError{errors.New("--strict-host-keys and --accept-new-host-keys cannot be combined")}
	}
	a.access.NeedConfirmedKeys = cmd.Annotations[secretsAnnotation] != ""
	a.access.ConfirmKeys = a.confirmKeys
	if _, given := os.LookupEnv(host.SudoPasswordVariable); given || a.askSudo {
		var err error
		if a.access.SudoPassword, err = a.secret(host.SudoPasswordVariable, "sudo password for the hosts: "); err != nil {
			return usageError{err}
		}
	}
	cmd.SetContext(host.WithAccess(cmd.Context(), a.access))
	return nil
}

// unlock prompts for the passphrases of a spec's keys and for the confirmation of new host keys, before the progress
// display takes over the terminal.
func (a *app) unlock(ctx context.Context, c *spec.Cluster) {
	var files []string
	for _, h := range c.Spec.Hosts {
		if h.Address != "" {
			files = append(append(files, h.SSH.KeyFile), h.SSH.JumpKeyFiles()...)
		}
	}
	a.access.Prepare(files)
	host.Introduce(ctx, run.Targets(c))
}
