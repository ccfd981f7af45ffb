package blobs

import (
	"encoding/json"
	"os"

	"quorate.dev/quorate/internal/durable"
)

const recordFile = "/var/lib/quorate/bundle.json"

// record is written by a completed import.
type record struct {
	Images string `json:"images"`
}

// Imported is the digest of the bundle whose images containerd has; empty if an import was never completed.
func Imported() string {
	var r record
	if data, err := os.ReadFile(recordFile); err == nil {
		// A damaged record counts as none: importing again is harmless.
		_ = json.Unmarshal(data, &r)
	}
	return r.Images
}

// SetImported records it.
func SetImported(bundleDigest string) error {
	data, err := json.Marshal(record{bundleDigest})
	if err != nil {
		return err
	}
	return durable.WriteFile(recordFile, data, 0o644)
}
