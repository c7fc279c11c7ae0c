"""Cards about datasets: their check, their columns and versions, labels, documents, deletion."""
