package main

import (
	"context"
	"flag"
	"net"
	"sort"
)

// lookup prints the addresses of a name, in order.
func lookup(args []string) error {
	flags := flag.NewFlagSet("lookup", flag.ExitOnError)
	name := flags.String("name", "", "what to look up")
	_ = flags.Parse(args)
	ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, *name)
	if err != nil {
		return err
	}
	sort.Strings(addresses)
	for _, address := range addresses {
		say("%s", address)
	}
	return nil
}
