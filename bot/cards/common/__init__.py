"""What every card may use: blocks and words, and the sentences about candidates, judges, money, reasons and rights."""
