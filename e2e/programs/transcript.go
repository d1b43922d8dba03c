package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Every step of a client ends within this.
const stepDeadline = 20 * time.Second

// step prints the title of what follows.
func step(title string) {
	fmt.Printf("== %s\n", title)
}

// say prints one line of the transcript.
func say(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}

// digest names bytes without printing them.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%d bytes, sha256 %s", len(data), hex.EncodeToString(sum[:]))
}

// pattern makes bytes that no codec can shorten by much and that are the same
// each time.
func pattern(size int, seed uint32) []byte {
	data := make([]byte, size)
	state := seed*2654435761 + 1
	for i := range data {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		data[i] = byte(state)
	}
	return data
}
