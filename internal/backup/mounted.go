package backup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mounted refuses a directory that should be on a file system of its own, according to /etc/fstab, which is not mounted: backups would fill the
// disk of the control plane, and would be lost with it.
func mounted(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	// Looking into it mounts what is mounted on demand.
	f, err := os.Open(real)
	if err != nil {
		return err
	}
	f.ReadDir(1) //nolint:errcheck // only to have it mounted
	f.Close()
	fstab, err := os.ReadFile("/etc/fstab")
	if err != nil {
		return nil //nolint:nilerr // nothing says that it should be mounted
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if point := notMounted(real, string(fstab), string(mounts)); point != "" {
		return fmt.Errorf("nothing is mounted at %s, where /etc/fstab has a file system: mount it (`mount %s`), or remove it from /etc/fstab if %s is meant to be on this disk", point, point, dir)
	}
	return nil
}

// notMounted is the mount point in fstab that a directory is below, if nothing is mounted there; otherwise it is empty. Root does not count.
func notMounted(dir, fstab, mounts string) string {
	point := ""
	for line := range strings.Lines(fstab) {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		at := filepath.Clean(unescape.Replace(fields[1]))
		if at != "/" && len(at) > len(point) && (dir == at || strings.HasPrefix(dir, at+"/")) {
			point = at
		}
	}
	if point == "" {
		return ""
	}
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) > 4 && unescape.Replace(fields[4]) == point && !strings.HasPrefix(after, "autofs ") {
			return ""
		}
	}
	return point
}

// unescape decodes the characters that these files encode in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
