"""The demo: plays the whole story on this machine, as two people would in Slack. Not part of the wheel.

story.py, extract.py                 what the two people do: sort tickets, or turn threads into JSON
shift_swaps.py                       writes those threads, from phrases in examples/
steps.py, runner.py                  how they do each step; what a story runs in, from its start to its end
service.py, people.py                `finetune run` as a child process; who the people are
workspace.py, forms.py               what a person can do and see in Slack
slack_emulator/, local_slack/        two such workspaces: our own strict one for tests, a third party's with a web page
transcript.py, drawing.py, summary.py    what the terminal shows during the story and at its end"""
