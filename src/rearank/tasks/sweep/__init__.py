"""One command, a job for every combination, each in a folder named after what is swept.

``plan`` what is swept and where (Hydra imports it for every command, so nothing is imported here) · ``jobs`` one job
from inside · ``arms`` what the finished ones tried · ``collect`` their table · ``closing`` the end.
"""

from rearank.moved import attributes_of

__getattr__ = attributes_of(__name__)  # old names of what has moved
