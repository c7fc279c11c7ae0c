"""`finetune mcp`: offers commands of the terminal to an editor's agent, by the Model Context Protocol.

server.py      speaks the protocol on stdin and stdout
tools.py       which commands are tools; their schemas, from the options that the commands declare
arguments.py   an agent's arguments as words of a command line; which files may be read
calls.py       carries out a call: within the allowance, as a process of its own; its result
processes.py   runs a command as a child process, which ends when the call is cancelled
reports.py     what a command tells the program that started it

The commands are passed in by `bot/cli`, which is above this package."""

PUBLIC_MODULES = ("reports", "server")
