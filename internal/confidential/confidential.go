// Package confidential tells which files are never shown: those that hold keys or kubeconfigs, and those in which somebody
// may have put a credential. It is pure.
package confidential

import (
	"path"
	"regexp"
	"strings"
)

// Reasons why a file is not shown.
const (
	ByPlace   = "files of its kind contain keys"
	ByContent = "it may contain a credential"
)

// secretDirs contain keys, next to certificates.
var secretDirs = []string{"/etc/kubernetes/pki/", "/var/lib/kubelet/pki/", "/etc/ssl/private/", "/root/.ssh/"}

var (
	publicNames = []string{".crt", ".pub"}
	secretNames = []string{".key", ".pem", ".p12", ".pfx", ".jks", ".kubeconfig"}
)

// credentials match text that may hold a credential. A file that only mentions one is withheld, too: that costs a look at the
// host, and the reverse would print a secret into a terminal or the log of a pipeline.
var credentials = []*regexp.Regexp{
	regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY`),
	// name = value and name: value, as of INI, TOML, YAML, JSON, and environment files
	regexp.MustCompile(`(?i)(pass(word|wd|phrase)?|auth_pass|secrets?|token|credentials?|key-data|(access|api|encryption|private|secret)[_-]?key)["']?[ \t]*[:=][ \t]*\S`),
	regexp.MustCompile(`(?im)^[ \t]*["']?auth["']?[ \t]*[:=]`),
	// the directives of HAProxy and keepalived
	regexp.MustCompile(`(?i)\b(auth_pass|stats[ \t]+auth|(insecure-)?password)[ \t]+\S`),
	regexp.MustCompile(`(?i)\bauthentication[ \t]*\{`),
	// headers, and addresses with a user and a password
	regexp.MustCompile(`(?im)(^|[\s"'])(authorization|x-api-key|(set-)?cookie)["']?[ \t:]+\S`),
	regexp.MustCompile(`(?i)\b(bearer|basic)[ \t]+[a-z0-9+/=._-]{8,}`),
	regexp.MustCompile(`://[^/\s:@]+:[^/\s@]+@`),
}

// Reason says why a file is not shown; it is empty for a file that can be shown.
func Reason(file, content string) string {
	if secretPlace(path.Clean(file)) {
		return ByPlace
	}
	for _, c := range credentials {
		if c.MatchString(content) {
			return ByContent
		}
	}
	return ""
}

func secretPlace(file string) bool {
	ext := path.Ext(file)
	for _, public := range publicNames {
		if ext == public {
			return false
		}
	}
	for _, secret := range secretNames {
		if ext == secret {
			return true
		}
	}
	for _, dir := range secretDirs {
		if strings.HasPrefix(file, dir) {
			return true
		}
	}
	return path.Dir(file) == "/etc/kubernetes" && ext == ".conf" // kubeconfigs
}
