// Command echo is the server inside the end-to-end tests' image, and their
// client for datagrams. It answers every line on TCP and every datagram on UDP
// port 9000 with its host name and the text.
//
//	echo              serve
//	echo -ask ADDR    send "hello" as a datagram to ADDR and print the answer
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	addr := flag.String("ask", "", "address to ask by UDP")
	flag.Parse()
	if *addr != "" {
		if err := ask(*addr); err != nil {
			log.Fatal(err)
		}
		return
	}
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(serveDatagrams(name)) }()
	log.Fatal(serveLines(name))
}

func serveLines(name string) error {
	listener, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if _, err := fmt.Fprintln(conn, name, lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func serveDatagrams(name string) error {
	conn, err := net.ListenPacket("udp", ":9000")
	if err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer := fmt.Sprintln(name, strings.TrimSpace(string(buffer[:n])))
		if _, err := conn.WriteTo([]byte(answer), from); err != nil {
			return err
		}
	}
}

func ask(addr string) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	n, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(buffer[:n])
	return err
}
