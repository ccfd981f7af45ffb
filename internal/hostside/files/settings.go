package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/found"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// settingsFile is a variable for tests.
var settingsFile = hostconfig.SettingsSysctlFile

// settingNames are the kernel settings that this host has from the spec. A file that does not exist has none.
func settingNames() (out []string) {
	content, err := os.ReadFile(settingsFile)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		if name, _, ok := strings.Cut(line, "="); ok {
			out = append(out, strings.TrimSpace(name))
		}
	}
	return out
}

// restoreSysctls gives the kernel settings that left the spec the values that they had before Quorate changed them. It comes
// before the file is written that no longer names them, so that a run that is killed does not forget them. A value that was not
// noted stays until the host starts again.
func restoreSysctls(d facts.Desired) error {
	kept := slices.ContainsFunc(d.Files, func(f facts.File) bool { return f.Path == settingsFile })
	if !kept && !slices.Contains(d.Absent, settingsFile) {
		return nil
	}
	var record found.Record
	for _, name := range settingNames() {
		if _, stays := d.Sysctls[name]; stays {
			continue
		}
		if record.Sysctls == nil {
			var err error
			if record, err = found.Local.Read(); err != nil {
				return err
			}
		}
		if value, noted := record.Sysctls[name]; noted {
			if err := setSysctl(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// foundHost is a variable for tests.
var foundHost = found.Local

// removeFile removes a file, and its directory if nothing else is in it. The file of a registry that was there before comes back.
func removeFile(path string) error {
	if filepath.Dir(filepath.Dir(path)) != hostconfig.RegistriesDir {
		return durable.Remove(path)
	}
	record, err := foundHost.Read()
	if err != nil {
		return err
	}
	before := record.Files[path]
	if before != nil {
		err = before.Restore(path)
	} else {
		err = durable.Remove(path)
	}
	if err == nil { // somebody may write another one before Quorate does so again
		err = foundHost.Forget(found.Record{Files: map[string]*found.File{path: nil}})
	}
	if err != nil || before != nil {
		return err
	}
	rest, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || len(rest) > 0 {
		return err
	}
	return durable.Remove(filepath.Dir(path))
}
