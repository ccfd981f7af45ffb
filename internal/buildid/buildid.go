// Package buildid reads the ID that Go's linker gives a program. Programs that were built from different sources have different ones.
package buildid

import (
	"debug/elf"
	"encoding/hex"
)

// Of is the ID of the program in a file; nil if it has none, or is no program.
func Of(path string) []byte {
	f, err := elf.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	const empty = 16 // bytes of a note without an ID: three lengths or types, and the name "Go"
	section := f.Section(".note.go.buildid")
	if section == nil || section.Size <= empty {
		return nil
	}
	note, err := section.Data()
	if err != nil {
		return nil
	}
	return note
}

// Own is the ID of the program that runs, in hexadecimal; empty if it has none.
func Own() string { return hex.EncodeToString(Of("/proc/self/exe")) }
