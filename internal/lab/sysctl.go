package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/durable"
)

// limits are sysctls that all machines share; the distributions' values are meant for one machine. With seven Kubernetes
// machines, 128 inotify instances were too few, and a kubelet failed.
var limits = map[string]uint64{
	"fs/inotify/max_user_instances":     8192,
	"fs/inotify/max_user_watches":       1 << 20,
	"kernel/keys/root_maxkeys":          1 << 20,
	"kernel/keys/root_maxbytes":         25 << 20,
	"kernel/pid_max":                    1 << 22,
	"net/ipv4/neigh/default/gc_thresh1": 1 << 10,
	"net/ipv4/neigh/default/gc_thresh2": 1 << 12,
	"net/ipv4/neigh/default/gc_thresh3": 1 << 13,
}

// setByKubelet are sysctls of the one kernel that every kubelet sets, in a lab machine as elsewhere.
var setByKubelet = []string{"kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom"}

func sysctlFile(key string) string { return filepath.Join("/proc/sys", key) }

func readSysctl(key string) (string, error) {
	data, err := os.ReadFile(sysctlFile(key))
	return strings.TrimSpace(string(data)), err
}

// raiseLimits raises the limits that are too low, after it has saved their values. The caller holds the host lock.
func raiseLimits() error {
	if err := rememberSysctls(); err != nil {
		return err
	}
	for key, want := range limits {
		value, err := readSysctl(key)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		have, err := strconv.ParseUint(value, 10, 64)
		if err != nil || have >= want {
			continue
		}
		if err := os.WriteFile(sysctlFile(key), []byte(strconv.FormatUint(want, 10)), 0); err != nil {
			name := strings.ReplaceAll(key, "/", ".")
			return &Problem{What: fmt.Sprintf("%s is %s and cannot be raised", name, value), Err: err, Why: "all machines of a lab share this limit",
				Fix: fmt.Sprintf("run `sysctl -w %s=%d`", name, want)}
		}
	}
	return nil
}

func rememberSysctls() error {
	if _, err := os.Stat(sysctlsBefore); err == nil {
		return nil
	}
	before := map[string]string{}
	keys := setByKubelet
	for key := range limits {
		keys = append(keys, key)
	}
	for _, key := range keys {
		if value, err := readSysctl(key); err == nil {
			before[key] = value
		}
	}
	data, err := json.Marshal(before)
	if err != nil {
		return err
	}
	return durable.WriteFile(sysctlsBefore, data, 0o644)
}

// restoreSysctls restores the settings that this machine had before the first lab.
func restoreSysctls() {
	data, err := os.ReadFile(sysctlsBefore)
	var before map[string]string
	if err != nil || json.Unmarshal(data, &before) != nil {
		return
	}
	for key, value := range before {
		if now, err := readSysctl(key); err == nil && now != value {
			os.WriteFile(sysctlFile(key), []byte(value), 0)
		}
	}
}
